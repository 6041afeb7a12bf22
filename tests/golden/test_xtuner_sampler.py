"""Grouping by length against XTuner 0.1.23's LengthGroupedSampler; FTX_GOLDEN names another folder of cases."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import FIXTURES
from ftx.data.group import length_grouped

GOLDEN = Path(os.environ.get("FTX_GOLDEN") or FIXTURES / "golden")
FILES = sorted(GOLDEN.glob("xtuner_sampler*.json"))
CASES = [case for file in FILES for case in json.loads(file.read_text("utf-8"))["cases"]]


def by_rank(case: dict[str, Any], recorded: Any) -> dict[int, list[int]]:
    """What each process of a case was given: recorded for one of them, or for several by rank."""
    if isinstance(recorded, dict):
        return {int(rank): indices for rank, indices in recorded.items()}
    if recorded and isinstance(recorded[0], list):
        return dict(enumerate(recorded))
    return {case.get("rank", 0): recorded}


def rounded_up(order: list[int], batch: int, world: int) -> list[int]:
    """XTuner's order, which begins anew until every process has whole batches."""
    total = math.ceil(len(order) / world / batch) * batch * world
    return (order * (total // len(order) + 1))[:total]


def test_there_are_cases() -> None:
    assert CASES


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case['length_property']}-{case['seed']}-{case['world_size']}"
)
def test_the_order_is_xtuners(case: dict[str, Any]) -> None:
    lengths = np.asarray(case["lengths"], np.int32)
    batch, world = case["per_device_batch_size"], case["world_size"]
    for epoch, recorded in case["indices_by_epoch"].items():
        order = length_grouped(lengths, batch * world, case["seed"], int(epoch)).tolist()
        assert sorted(order) == list(range(len(lengths)))
        for rank, indices in by_rank(case, recorded).items():
            assert rounded_up(order, batch, world)[rank::world] == indices
            assert len(indices) == case["len"]
