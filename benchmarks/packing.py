"""How full packed rows are and how long packing takes, beside the ways of other tools, on real and drawn lengths.

    python benchmarks/packing.py

oasst: the ways to all leaves of 15 Open-Assistant trees under InternLM2's tokenizer, and those that differ, which
is what ftx trains on. log-normal: 50,000 and 1,000,000 drawn
lengths (mu 5, sigma 1, cut to 8..4096). `bound` is the fill that no packing of whole samples can exceed: tokens over
the least number of rows that could hold them.
"""

from __future__ import annotations

import math
import platform
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ftx import Conversation
from ftx.data.choose import choose_template
from ftx.data.encode import Encoder
from ftx.data.pack import best_fit, strung
from ftx.data.sets import open_set
from ftx.plugins import load_registry
from ftx_internlm2.family import InternLM2
from ftx_sources.files import Files
from ftx_sources.oasst import answered_ways

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures" / "data"
CAPACITY = 4096


def oasst(*, different: bool) -> list[int]:
    """Tokens of each conversation in the trees."""
    tokenizer = InternLM2().tokenizer(FIXTURES / "internlm2_tokenizer")
    source = Files(path=str(FIXTURES / "oasst_samples" / "en_tree_15.jsonl"))
    one = open_set(source, "auto", None, load_registry("none"))
    if different:
        talks = [talk for record in source.records() for talk in one.conversations(record)]
    else:
        talks = [Conversation.of(way) for record in source.records() for way in answered_ways(record.value)]
    encoder = Encoder(choose_template("auto", tokenizer, "internlm2_chat"), tokenizer)
    return [len(row.ids) for row in encoder.rows(talks)]  # type: ignore[union-attr]


def log_normal(count: int) -> list[int]:
    draw = random.Random(0)
    return [min(CAPACITY, max(8, int(draw.lognormvariate(5.0, 1.0)))) for _ in range(count)]


def first_come(lengths: Sequence[int], capacity: int) -> int:
    """Rows when each sample goes into the current row or begins a new one, the common greedy way."""
    rows, left = 0, 0
    for length in lengths:
        if length > left:
            rows, left = rows + 1, capacity
        left -= length
    return rows


def xtuner(lengths: Sequence[int], capacity: int) -> int:
    """Rows of XTuner's way, which cuts samples and loses what is left over."""
    return len(strung(lengths, capacity))


WAYS: dict[str, Callable[[Sequence[int], int], int]] = {
    "ftx best_fit": lambda lengths, capacity: len(best_fit(lengths, capacity)),
    "one sample a row": lambda lengths, capacity: len(lengths),
    "first come": first_come,
    "xtuner (cuts samples)": xtuner,
}


def main() -> None:
    print(f"Python {platform.python_version()}, {platform.machine()}, one process; rows of {CAPACITY} tokens")
    print(f"{'lengths':<24}{'way':<24}{'samples':>10}{'rows':>10}{'fill':>9}{'bound':>9}{'seconds':>9}")
    cases = {
        "oasst, all leaves": oasst(different=False),
        "oasst, all different": oasst(different=True),
        "log-normal 50,000": log_normal(50_000),
        "log-normal 1,000,000": log_normal(1_000_000),
    }
    for name, lengths in cases.items():
        bound = sum(lengths) / (CAPACITY * math.ceil(sum(lengths) / CAPACITY))
        for way, pack in WAYS.items():
            start = time.perf_counter()
            rows = pack(lengths, CAPACITY)
            spent = time.perf_counter() - start
            filled = min(1.0, sum(lengths) / (CAPACITY * rows))
            print(f"{name:<24}{way:<24}{len(lengths):>10,}{rows:>10,}{filled:>9.2%}{bound:>9.2%}{spent:>9.3f}")


if __name__ == "__main__":
    main()
