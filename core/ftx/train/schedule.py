"""Learning rates and random numbers, functions of the step alone, so that a resume needs no state."""

from __future__ import annotations

import math
import random


def rate(step: int, steps: int, warmup: int) -> float:
    """The learning rate of optimizer step `step` (from 0) as a share of its peak, in (0, 1].

    Linear warm-up over `warmup` steps, then half a cosine. Counted in optimizer steps, and never zero, so that
    no step is without effect, however short the run.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of everything random inside a step (dropout), below 2^63, different for every process.

    A generator seeded anew for each step leaves no state to save: a resumed run draws what the unbroken one drew.
    """
    return random.Random(f"{seed}-{step}-{rank}").getrandbits(63)


def micro_batches(rows: list[int], size: int, rank: int, world: int) -> list[list[int]]:
    """This process's share of a step's rows in micro-batches of at most `size`.

    Every process gets the same number of them, as collectives need; one that has no rows left gets [].
    """
    mine = rows[rank::world]
    longest = math.ceil(len(rows) / world)
    return [mine[i : i + size] for i in range(0, longest, size)]
