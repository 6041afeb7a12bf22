"""Epochs in which rows of like length share a batch, in the order of XTuner 0.1.23's LengthGroupedSampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

STRETCHES = 4  # an epoch is sorted in so many stretches at least, where it has enough batches,
LONGEST = 50  # and in longer ones than so many batches never, so that chance keeps its part


def length_grouped(lengths: NDArray[np.int32], batch: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Row numbers of epoch `epoch` (from 0), int64 [rows], each once: consecutive `batch` of them are of like length.

    `lengths`, int32 [rows], in tokens, none zero. Where both signs occur, a negative one marks a row without a picture:
    the two kinds are kept apart but for the last stretch, which takes what is left of both. Rows are dealt at random
    into stretches of several batches, and sorted within one, the longest first; the longest row of all comes first, so
    that a lack of memory shows at once.
    """
    import numpy as np
    import torch

    generator = torch.Generator().manual_seed(seed + epoch)
    size = max(1, min(len(lengths) // (batch * STRETCHES), LONGEST)) * batch
    pictured, text = np.flatnonzero(lengths > 0), np.flatnonzero(lengths < 0)
    if len(pictured) and len(text):
        found = _mixed(pictured, text, np.abs(lengths), size, generator)
    else:
        found = _stretches(np.arange(len(lengths)), lengths, size, generator)
    longest = int(np.argmax([abs(lengths[stretch[0]]) for stretch in found]))
    found[0][0], found[longest][0] = found[longest][0], found[0][0]
    return np.concatenate(found)


def _mixed(
    pictured: NDArray[np.int64],
    text: NDArray[np.int64],
    lengths: NDArray[np.int32],
    size: int,
    generator: torch.Generator,
) -> list[NDArray[np.int64]]:
    """Stretches of one kind each in random order, and one of the last of both."""
    import numpy as np
    import torch

    *first, last = _stretches(pictured, lengths, size, generator)
    *others, rest = _stretches(text, lengths, size, generator)
    whole = first + others
    order = torch.randperm(len(whole), generator=generator).tolist()
    return [*(whole[i] for i in order), _sorted(np.concatenate([last, rest]), lengths)]


def _stretches(
    rows: NDArray[np.int64], lengths: NDArray[np.int32], size: int, generator: torch.Generator
) -> list[NDArray[np.int64]]:
    import torch

    dealt = rows[torch.randperm(len(rows), generator=generator).numpy()]
    return [_sorted(dealt[i : i + size], lengths) for i in range(0, len(dealt), size)]


def _sorted(rows: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    """The longest first, equals as they came."""
    import numpy as np

    return rows[np.argsort(-lengths[rows], kind="stable")]
