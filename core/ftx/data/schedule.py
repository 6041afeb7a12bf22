"""The order of rows, a function of the step alone, so that a resume needs no state."""

from __future__ import annotations

import math
import random
from functools import lru_cache


def batch_rows(step: int, rows: int, batch: int, seed: int) -> list[int]:
    """Row numbers of optimizer step `step`: each epoch is a fresh permutation, its last batch may be short."""
    epoch, part = epoch_part(step, rows, batch)
    return _order(rows, seed, epoch)[part]


def epoch_part(step: int, rows: int, batch: int) -> tuple[int, slice]:
    """The epoch of optimizer step `step`, both from 0, and the step's part of that epoch's rows."""
    epoch, at = divmod(step, math.ceil(rows / batch))
    return epoch, slice(at * batch, (at + 1) * batch)


@lru_cache(maxsize=1)  # one shuffle an epoch, not one a step
def _order(rows: int, seed: int, epoch: int) -> list[int]:
    order = list(range(rows))
    random.Random(f"{seed}-{epoch}").shuffle(order)
    return order
