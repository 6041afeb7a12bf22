"""Which samples an epoch holds when several sets are mixed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Share:
    """A set's part: at most `limit` samples, drawn; those `repeat` times; or, with a `weight`, a share of the whole."""

    limit: int | None = None
    repeat: float = 1.0
    weight: float | None = None


def epoch_samples(counts: Sequence[int], shares: Sequence[Share], seed: int) -> NDArray[np.int64]:
    """Numbers of an epoch's samples, those of the first set first, numbered through all sets in order.

    A set's samples are drawn in whole passes; what is left of a pass is drawn without repetition. With weights, an
    epoch has as many samples as the sets have after `limit` and `repeat`, and each set gets its weight's share of
    them. The draw depends on the numbers and `seed` alone.
    """
    import numpy as np

    sizes = [min(count, share.limit or count) for count, share in zip(counts, shares, strict=True)]
    wanted = [round(size * share.repeat) for size, share in zip(sizes, shares, strict=True)]
    if any(share.weight is not None for share in shares):
        weights = [1.0 if share.weight is None else share.weight for share in shares]
        wanted = _shares_of(sum(wanted), weights)
    starts = accumulate(counts, initial=0)
    parts = [
        start + np.asarray(_drawn(count, size, want, f"{seed}-{i}"), dtype=np.int64)
        for i, (start, count, size, want) in enumerate(zip(starts, counts, sizes, wanted, strict=False))
    ]
    return np.concatenate(parts)


def _shares_of(total: int, weights: Sequence[float]) -> list[int]:
    """`total` divided by weight into whole numbers that add up to it."""
    whole = sum(weights)
    bounds = [round(total * part / whole) for part in accumulate(weights, initial=0.0)]
    return [stop - start for start, stop in pairwise(bounds)]


def _drawn(count: int, size: int, wanted: int, seed: str) -> Sequence[int]:
    if size == count == wanted:
        return range(count)
    draw = random.Random(seed)
    pool = sorted(draw.sample(range(count), size)) if size < count else list(range(count))
    passes, rest = divmod(wanted, size) if size else (0, 0)
    return [*pool * passes, *sorted(draw.sample(pool, rest))]
