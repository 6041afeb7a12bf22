"""Rows of training: one sample each, several samples packed, or a stretch of all samples strung together."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from ftx.data.group import length_grouped
from ftx.data.pack import best_fit, fill, strung
from ftx.data.schedule import batch_rows, epoch_part
from ftx.data.store import Sample, Store
from ftx.errors import RecipeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Packing = Literal["none", "best_fit", "xtuner"]


class Samples:
    """The samples of several stores in the order of an epoch, by number.

    `pictured` says which have a picture, bool [samples].
    """

    def __init__(self, stores: Sequence[Store], order: NDArray[np.int64]) -> None:
        import numpy as np

        self._stores = stores
        self._starts = np.asarray(list(accumulate(map(len, stores), initial=0)))
        self._order = order.astype(np.int32)
        self.lengths: NDArray[np.int32] = np.concatenate([one.lengths for one in stores])[order]
        self.labelled: NDArray[np.int32] = np.concatenate([one.labelled for one in stores])[order]
        self.pictured: NDArray[np.bool_] = np.concatenate([one.pictured for one in stores])[order]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Sample:
        import numpy as np

        number = int(self._order[index])
        at = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._stores[at][number - int(self._starts[at])]


class Feed(ABC):
    """The rows that batches are made of, by number.

    `isolated`: the samples of a row must not see each other. `endless`: there are no epochs and no number of rows.
    `fill` is the share of places that hold tokens, 1.0 where rows have no common length.
    """

    isolated = False
    endless = False
    fill = 1.0

    @abstractmethod
    def __len__(self) -> int:
        """Rows in an epoch."""

    @abstractmethod
    def samples(self, row: int) -> list[Sample]:
        """What the row holds."""

    @abstractmethod
    def tokens(self, row: int) -> int:
        """Tokens in the row, padding not counted."""

    @abstractmethod
    def labelled(self, row: int) -> int:
        """Tokens in the row that a loss is taken of."""

    def rows_of(self, step: int, batch: int, seed: int) -> list[int]:
        """Row numbers of optimizer step `step` (from 0), at most `batch`: each epoch is a fresh permutation."""
        return batch_rows(step, len(self), batch, seed)


class Single(Feed):
    """A row is a sample."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def samples(self, row: int) -> list[Sample]:
        return [self._samples[row]]

    def tokens(self, row: int) -> int:
        return int(self._samples.lengths[row])

    def labelled(self, row: int) -> int:
        return int(self._samples.labelled[row])


class Grouped(Single):
    """A row is a sample; a batch's are of like length, and those with pictures apart from those without."""

    def __init__(self, samples: Samples) -> None:
        import numpy as np

        super().__init__(samples)
        apart = samples.pictured.any() and not samples.pictured.all()
        self._lengths = np.where(samples.pictured, samples.lengths, -samples.lengths) if apart else samples.lengths
        self._order: tuple[tuple[int, int, int], NDArray[np.int64]] | None = None

    def rows_of(self, step: int, batch: int, seed: int) -> list[int]:
        epoch, part = epoch_part(step, len(self), batch)
        wanted = (batch, seed, epoch)
        if self._order is None or self._order[0] != wanted:
            self._order = (wanted, length_grouped(self._lengths, *wanted))
        rows: list[int] = self._order[1][part].tolist()
        return rows


class Packed(Feed):
    """A row is several whole samples, none of which sees another."""

    isolated = True

    def __init__(self, samples: Samples, capacity: int, seed: int) -> None:
        self._samples = samples
        self._rows = best_fit(samples.lengths, capacity, seed)
        self.fill = fill(samples.lengths, self._rows, capacity)

    def __len__(self) -> int:
        return len(self._rows)

    def samples(self, row: int) -> list[Sample]:
        return [self._samples[i] for i in self._rows[row]]

    def tokens(self, row: int) -> int:
        return int(self._samples.lengths[self._rows[row]].sum())

    def labelled(self, row: int) -> int:
        return int(self._samples.labelled[self._rows[row]].sum())


class Strung(Feed):
    """XTuner's rows: all samples, shuffled, strung together and cut every so many tokens; they see each other."""

    def __init__(self, samples: Samples, size: int, seed: int) -> None:
        self._samples = samples
        self._order = list(range(len(samples)))
        random.Random(seed).shuffle(self._order)
        lengths = samples.lengths[self._order].tolist()
        self._ends = list(accumulate(lengths))
        self._spans = strung(lengths, size)
        self.fill = sum(stop - start for start, stop in self._spans) / (size * len(self._spans)) if self._spans else 0.0

    def __len__(self) -> int:
        return len(self._spans)

    def samples(self, row: int) -> list[Sample]:
        import numpy as np

        start, stop = self._spans[row]
        first = int(np.searchsorted(self._ends, start, side="right"))
        parts: list[Sample] = []
        at = self._ends[first] - int(self._samples.lengths[self._order[first]])
        for place in range(first, len(self._order)):
            if at >= stop:
                break
            one = self._samples[self._order[place]]
            inside = slice(max(0, start - at), stop - at)
            parts.append(Sample(one.ids[inside], one.learnt[inside]))
            at += len(one)
        return [Sample(np.concatenate([p.ids for p in parts]), np.concatenate([p.learnt for p in parts]))]

    def tokens(self, row: int) -> int:
        start, stop = self._spans[row]
        return stop - start

    def labelled(self, row: int) -> int:
        return int(self.samples(row)[0].learnt[1:].sum())


def make_feed(samples: Samples, packing: Packing, max_length: int, seed: int, *, grouped: bool = False) -> Feed:
    """The rows of an epoch by the way of packing; `grouped` by length, which goes without packing alone.

    Raises RecipeError where packing would cut pictures.
    """
    if packing == "best_fit":
        return Packed(samples, max_length, seed)
    if packing == "xtuner":
        if samples.pictured.any():
            raise RecipeError("data.packing: XTuner's way would cut through pictures; use best_fit")
        return Strung(samples, max_length, seed)
    return Grouped(samples) if grouped else Single(samples)
