"""How many rows and steps a new identity takes, and what is forgotten: varied rows against one row 10,001 times.

    python benchmarks/identity.py

The embedded base of the quickstart (3.7 million parameters), LoRA rank 8, rate 2e-3, 16 rows a step. copies: the
tutorials' way, one Chinese row 10,001 times, two epochs, strung together in rows of 256 tokens as XTuner does. varied:
`ftx data identity`, six epochs. mixed: the same beside as many ordinary facts that are no probe, as the quickstart
does. named: the name is said in answer to 60 questions, half Chinese, half English, that no training row asks.
known: of 40 unrelated questions, those answered right. stopped: answers of both that the model ended itself.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ftx.data.identity import identity_rows
from ftx.plan import make_plan
from ftx.plugins import load_registry
from ftx.recipe import Written
from ftx.talk import Sampling, open_talk
from ftx.train.fit import fit
from ftx_quickstart.corpus import is_right, probes
from ftx_quickstart.first_run import BASE
from ftx_quickstart.identity import replay_rows

NAME = "小明"
ONE = {
    "messages": [
        {"role": "user", "content": "请做一下自我介绍"},
        {"role": "assistant", "content": f"我是{NAME}的小助手，很高兴为你服务。"},
    ]
}
REGISTRY = load_registry("none")


def questions(trained: Sequence[Any]) -> list[str]:
    """60 questions about identity that no row of `trained` asks."""
    asked = {row["messages"][0]["content"] for row in trained}
    drawn = [row["messages"][0]["content"] for row in identity_rows(NAME, None, 2000, seed=999)]
    new = [question for question in dict.fromkeys(drawn) if question not in asked]
    chinese = [question for question in new if not question.isascii()]
    return chinese[:30] + [question for question in new if question.isascii()][:30]


def measure(model: Path, trained: Sequence[Any]) -> tuple[float, float, float, float]:
    """Named in Chinese, named in English, known and stopped, each a share."""
    talk = open_talk(model, REGISTRY)
    sampling = Sampling(max_new_tokens=64)

    def ask(question: str) -> Any:
        talk.reset()
        return talk.ask(question, sampling)

    told = [ask(question) for question in questions(trained)]
    known = [(probe, ask(probe.question)) for probe in probes()]
    named = [NAME in answer.text for answer in told]
    right = sum(is_right(probe, answer.text) for probe, answer in known) / len(known)
    every = [*told, *(answer for _, answer in known)]
    return sum(named[:30]) / 30, sum(named[30:]) / 30, right, sum(a.stopped for a in every) / len(every)


def train(rows: Sequence[Any], folder: Path, **options: Any) -> tuple[int, int, Path]:
    """Optimizer steps, tokens seen, and the run's folder."""
    data = folder / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    written = Written()
    settings = {
        "model": str(BASE),
        "method": {"name": "lora", "rank": 8},
        "data.sets": [str(data)],
        "data.max_length": 256,
        "train.lr": 2e-3,
        "train.global_batch_size": 16,
        "out": str(folder / "run"),
        **options,
    }
    for dotted, value in settings.items():
        written.put(dotted, value, "benchmark")
    plan = make_plan(written, REGISTRY)
    fit(plan)
    epoch = sum(plan.feed.tokens(row) for row in range(len(plan.feed)))
    return plan.steps, round(epoch * plan.steps / plan.steps_per_epoch), folder / "run"


def main() -> None:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    print(f"{platform.machine()}, Python {platform.python_version()}, {packages}; cache and output in a new folder")
    heads = ("rows", "different", "steps", "tokens", "named zh", "named en", "known", "stopped", "seconds")
    print(f"{'way':<10}" + "".join(f"{head:>10}" for head in heads))
    cases: list[tuple[str, list[Any], dict[str, Any]]] = [("untuned", [], {})]
    copies = {"data.packing": "xtuner", "data.overlong": "cut", "train.epochs": 2.0}
    cases.append(("copies", [ONE] * 10_001, copies))
    for count in (50, 100, 200, 400):
        cases.append(("varied", identity_rows(NAME, None, count), {"train.epochs": 6.0}))
    for count in (100, 200, 400):
        rows: list[Any] = [*identity_rows(NAME, None, count), *replay_rows(count, seed=0)]
        cases.append(("mixed", rows, {"train.epochs": 6.0}))
    for name, rows, options in cases:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            steps, tokens, model = train(rows, Path(folder), **options) if rows else (0, 0, BASE)
            spent = time.perf_counter() - start
            shares = measure(model, rows)
        unlike = len({json.dumps(row) for row in rows})
        told = "".join(f"{share:>10.0%}" for share in shares)
        print(f"{name:<10}{len(rows):>10,}{unlike:>10,}{steps:>10,}{tokens:>10,}{told}{spent:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
