"""Rows a second and peak memory from a file to packed token rows, in a fresh process each.

    python benchmarks/data_speed.py [--xtuner PYTHON] [--rows 200000,1000000]

personal assistant: one row 10,001 times, as the tutorials make it. different: as many rows of which no two are alike.
mixed: rows of log-normal length in four formats, read as four sets. The real InternLM2 tokenizer, template
internlm2_chat, rows of 2048 tokens. `seconds` leaves out imports and the loading of the tokenizer; `again` is a second
run that finds the tokens in the cache. --xtuner names a Python that has XTuner 0.1.23.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

TOKENIZER = Path(__file__).parents[1] / "tests" / "fixtures" / "data" / "internlm2_tokenizer"
TEXT = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which "
    "one you were all her she there would their we him been has when who will no more if out so up said what its about "
    "than into them can only other time new some could these two may first then do any like my now over such our man "
    "你好 世界 今天 天气 模型 训练 数据 我们 可以 什么 怎么 因为 所以 如果 但是 学习 工作 生活 中国 语言"
)
WORDS = TEXT.split()


def personal_assistant(count: int) -> Iterator[Any]:
    row = {"input": "请做一下自我介绍", "output": "我是剑锋大佬的小助手，内在是上海AI实验室书生·浦语的1.8B大模型哦"}
    for _ in range(count):
        yield {"conversation": [row]}


def different(count: int) -> Iterator[Any]:
    for i in range(count):
        yield {"conversation": [{"input": f"请做一下自我介绍，第{i}次", "output": f"我是第{i}位大佬的小助手"}]}


def mixed(count: int) -> Iterator[Any]:
    """Rows in four formats in turn, some 75 tokens on average."""
    draw = random.Random(0)
    for i in range(count):
        length = max(4, int(draw.lognormvariate(3.5, 0.8)))
        asked, said = (" ".join(draw.choices(WORDS, k=n)) for n in (max(2, length // 3), length))
        yield (
            {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]},
            {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]},
            {"instruction": asked, "input": "", "output": said},
            {"prompt": asked, "completion": said},
        )[i % 4]


def write(folder: Path, rows: Iterator[Any], *, array: bool, files: int) -> list[str]:
    """The rows in as many files, in turn; as an array with one space of indent, as json.dump writes it, or as lines."""
    paths = [folder / f"{i}.{'json' if array else 'jsonl'}" for i in range(files)]
    if array:
        paths[0].write_text(json.dumps(list(rows), ensure_ascii=False, indent=1), "utf-8")
        return [str(paths[0])]
    opened = [path.open("w", encoding="utf-8") for path in paths]
    for i, row in enumerate(rows):
        opened[i % files].write(json.dumps(row, ensure_ascii=False) + "\n")
    for file in opened:
        file.close()
    return [str(path) for path in paths]


def measure(paths: list[str]) -> None:
    """Run in a process of its own: prepare and pack, twice; print what it took as JSON."""
    from ftx.data.feed import Packed, Samples
    from ftx.data.load import prepare
    from ftx.data.mix import Share, epoch_samples
    from ftx.data.named import named_templates
    from ftx.data.samples import Preparation
    from ftx.data.sets import open_set
    from ftx.plugins import load_registry
    from ftx_internlm2.family import InternLM2
    from ftx_sources.files import Files

    registry = load_registry("none")
    how = Preparation(named_templates()["internlm2_chat"], InternLM2().tokenizer(TOKENIZER), 2048)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(2):
        start = time.perf_counter()
        sets = [open_set(Files(path=path), "auto", None, registry) for path in paths]
        prepared = prepare(sets, how, registry.versions())
        counts = [len(store) for store in prepared.stores]
        samples = Samples(prepared.stores, epoch_samples(counts, [Share()] * len(counts), 0))
        feed = Packed(samples, 2048, 0)
        times.append(time.perf_counter() - start)
    told = {"seconds": times[0], "again": times[1], "fill": feed.fill, "tokens": prepared.ledger.tokens}
    told |= {"base_mib": before // 1024, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    print(json.dumps({**told, "packed_rows": len(feed)}))


def run(command: list[str], **environment: str) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(name: str, what: str, rows: int, told: dict[str, Any]) -> None:
    speed = rows / told["seconds"]
    again = f"{told['again']:.2f}" if "again" in told else "-"
    base = f"{told['base_mib']:,}" if "base_mib" in told else "-"
    print(
        f"{name:<22}{what:<26}{rows:>10,}{told['seconds']:>9.2f}{speed:>10,.0f}{again:>8}{told['packed_rows']:>9,}"
        f"{base:>8}{told['peak_mib']:>8,}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--xtuner", help="a Python with XTuner 0.1.23")
    parser.add_argument("--rows", default="200000", help="sizes of the mixed set, joined by commas")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure)
        return
    packages = ", ".join(f"{name} {version(name)}" for name in ("tokenizers", "transformers", "numpy"))
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {packages}")
    print(
        f"{'rows':<22}{'what':<26}{'count':>10}{'seconds':>9}{'rows/s':>10}{'again':>8}{'packed':>9}"
        f"{'base':>8}{'peak':>8} MiB"
    )
    cases = [("personal assistant", personal_assistant, 10_001, True, 1), ("different", different, 10_001, True, 1)]
    cases += [("mixed", mixed, int(count), False, 4) for count in given.rows.split(",")]
    for name, make, count, array, files in cases:
        with tempfile.TemporaryDirectory() as folder:
            paths = write(Path(folder), make(count), array=array, files=files)
            told = run([sys.executable, __file__, "--measure", *paths], FTX_CACHE=f"{folder}/cache")
            show(name, "ftx", count, told)
            if given.xtuner and array:
                peer = str(Path(__file__).parent / "peers" / "xtuner_process.py")
                for processes in ("1", "32"):
                    told = run([given.xtuner, peer, paths[0], str(TOKENIZER), processes], HF_HUB_OFFLINE="1")
                    show(name, f"XTuner 0.1.23, {processes} process{'es' * (processes != '1')}", count, told)


if __name__ == "__main__":
    main()
