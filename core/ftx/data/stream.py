"""Training on sets too large to tokenise beforehand: rows are read as they are needed, and the sets never end."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice

from ftx.data.feed import Feed, Packing
from ftx.data.ledger import Ledger, Reject
from ftx.data.load import refuse_rejects
from ftx.data.pack import best_fit
from ftx.data.samples import Preparation, samples_of
from ftx.data.sets import DataSet
from ftx.data.store import Sample
from ftx.data.template import Encoded
from ftx.errors import DataError

WINDOW = 4096  # samples that are shuffled and packed together; two windows are all that is ever held


class Streamed(Feed):
    """Rows made of an endless stream, window after window.

    Sets are drawn from by `weights`, and begun anew at their end. A window's samples are shuffled and packed by (seed,
    number of the window), so that a row depends on its number alone, whichever process asks. The window before is kept,
    as batches are made ahead of the step; asking for an earlier row reads from the beginning again. `ledger` counts
    what has been read since, the sets' second passes included; with more than `max_rejected` rejects asking for a row
    raises DataError.
    """

    endless = True

    def __init__(
        self,
        sets: Sequence[DataSet],
        weights: Sequence[float],
        how: Preparation,
        packing: Packing,
        seed: int,
        max_rejected: int,
    ) -> None:
        self.isolated = packing == "best_fit"
        self._sets, self._weights, self._how = sets, weights, how
        self._seed, self._max_rejected = seed, max_rejected
        self._begin()

    def _begin(self) -> None:
        self.ledger = Ledger()
        self._stream = self._drawn()
        self._window = -1
        self._first = 0  # number of the window's first row
        self._rows: list[list[Sample]] = []
        self._before: list[list[Sample]] = []

    def __len__(self) -> int:
        raise TypeError("a stream has no length")

    def samples(self, row: int) -> list[Sample]:
        if row < self._first - len(self._before):
            self._begin()
        while row >= self._first + len(self._rows):
            self._advance()
        at = row - self._first  # below zero in the window before, counted from its end
        return self._rows[at] if at >= 0 else self._before[at]

    def tokens(self, row: int) -> int:
        return sum(map(len, self.samples(row)))

    def labelled(self, row: int) -> int:
        return sum(int(sample.learnt[1:].sum()) for sample in self.samples(row))

    def rows_of(self, step: int, batch: int, seed: int) -> list[int]:
        return list(range(step * batch, (step + 1) * batch))

    def _advance(self) -> None:
        self._window += 1
        self._first += len(self._rows)
        self._before = self._rows
        held = [self._as_sample(row) for row in islice(self._stream, WINDOW)]
        seed = random.Random(f"{self._seed}-{self._window}").getrandbits(63)
        if self.isolated:
            packed = best_fit([len(sample) for sample in held], self._how.max_length, seed)
            self._rows = [[held[i] for i in row] for row in packed]
        else:
            random.Random(seed).shuffle(held)
            self._rows = [[sample] for sample in held]

    @staticmethod
    def _as_sample(row: Encoded) -> Sample:
        import numpy as np

        return Sample(np.asarray(row.ids, np.int32), np.frombuffer(row.learnt, np.bool_), row.pictures)

    def _drawn(self) -> Iterator[Encoded]:
        draw = random.Random(f"{self._seed}-sets")
        streams = [self._again(one) for one in self._sets]
        while True:
            yield next(draw.choices(streams, self._weights)[0])

    def _again(self, one: DataSet) -> Iterator[Encoded]:
        while True:
            before = self.ledger.samples
            yield from samples_of(one, self._how, self.ledger, self._refuse)
            if self.ledger.samples == before:
                raise DataError(f"a set of {one.source.name} holds no row that can be trained on")

    def _refuse(self, reject: Reject) -> None:
        if self.ledger.rejected > self._max_rejected:
            self.ledger.rejects = [reject]
            refuse_rejects(self.ledger, self._max_rejected)
