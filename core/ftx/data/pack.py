"""Packing: samples of unequal length laid into rows of equal length, so that little of a row is padding."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNK = 1 << 16  # samples whose lengths are Python's numbers at a time
CALL = 1000  # samples that XTuner's packer gets at once: the batch size of datasets.map


class Rows(Sequence[list[int]]):
    """Sample numbers row by row, in two arrays: a million of them are a few megabytes."""

    def __init__(self, row_of: NDArray[np.int32], order: Sequence[int]) -> None:
        """`row_of` names each sample's row, `order` lists the rows as they are to stand."""
        import numpy as np

        place = np.empty(len(order), np.int32)
        place[np.asarray(order, np.int64)] = np.arange(len(order), dtype=np.int32)
        placed = place[row_of] if len(order) else row_of
        self._samples = np.argsort(placed, kind="stable").astype(np.int32)
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(placed, minlength=len(order)))])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row: int) -> list[int]:  # type: ignore[override]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        found: list[int] = self._samples[self._starts[row] : self._starts[row + 1]].tolist()
        return found


def best_fit(lengths: Sequence[int] | NDArray[np.int32], capacity: int, seed: int = 0) -> Rows:
    """Sample numbers of each row: every sample once, whole, no row longer than `capacity` tokens.

    Best fit, longest first (Johnson 1974): a sample goes to the fullest row that still has room for it. Samples of
    equal length are taken in an order drawn from `seed`, as are the finished rows, so that the result depends on
    nothing else. Raises ValueError for a sample longer than `capacity`.
    """
    import numpy as np

    sizes = np.asarray(lengths, np.int32)
    longest = int(sizes.max(initial=0))
    if longest > capacity:
        raise ValueError(f"a sample of {longest} tokens does not fit into a row of {capacity}")
    drawn = np.random.RandomState(seed % (1 << 32)).permutation(len(sizes)).astype(np.int32)
    order = drawn[np.argsort(-sizes[drawn], kind="stable")]  # equal lengths keep their drawn order
    row_of = np.empty(len(sizes), np.int32)
    fitter = _BestFit(capacity)
    for at in range(0, len(order), CHUNK):
        part = order[at : at + CHUNK]
        row_of[part] = [fitter.row_for(length) for length in sizes[part].tolist()]
    rows = list(range(fitter.rows))
    random.Random(seed).shuffle(rows)
    return Rows(row_of, rows)


class _BestFit:
    """Open rows by the tokens they have left."""

    def __init__(self, capacity: int) -> None:
        self.rows = 0
        self._capacity = capacity
        self._with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
        self._rooms = 0  # bit r is set when a row with r tokens left is open

    def row_for(self, length: int) -> int:
        """The row that a sample of `length` tokens goes to: the fullest with room for it, or a new one."""
        fitting = self._rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = self._with_room[room].pop()
            if not self._with_room[room]:
                self._rooms ^= 1 << room
        else:
            room, row = self._capacity, self.rows
            self.rows += 1
        if left := room - length:
            self._with_room[left].append(row)
            self._rooms |= 1 << left
        return row


def fill(lengths: Sequence[int] | NDArray[np.int32], rows: Rows, capacity: int) -> float:
    """The share of the rows' places that hold tokens."""
    import numpy as np

    return int(np.sum(lengths, dtype=np.int64)) / (capacity * len(rows)) if len(rows) else 0.0


@dataclass
class Packed:
    """Rows as XTuner's Packer gives them. `bounds` (its cumulative_len) and `positions` exist with varlen alone."""

    ids: list[list[int]]
    labels: list[list[int]]
    bounds: list[list[int]] = field(default_factory=list)
    positions: list[list[int]] = field(default_factory=list)


@dataclass
class XTunerPacker:
    """XTuner 0.1.23's packing, call by call (reference: xtuner_packer.json).

    Samples are strung together and cut every `size` tokens, through the middle of a sample where need be; the rest
    waits for the next call. When a call ends with less than `size` tokens in all, they become a short row, or are lost
    with `drop_last`; what waits after the last call is lost.
    """

    size: int
    varlen: bool = False
    drop_last: bool = False
    _ids: list[int] = field(default_factory=list)
    _labels: list[int] = field(default_factory=list)
    _ends: list[int] = field(default_factory=lambda: [0])  # where samples end in what waits, after a 0

    def __call__(self, ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> Packed:
        """The rows that are full once these samples have joined those that wait."""
        self._ids += chain.from_iterable(ids)
        self._labels += chain.from_iterable(labels)
        ends = list(accumulate(map(len, ids), initial=self._ends[-1]))[1:]
        self._ends += ends
        if len(self._ids) < self.size:
            return self._flush()
        count = len(self._ids) // self.size
        cuts = [slice(i * self.size, (i + 1) * self.size) for i in range(count)]
        packed = Packed([self._ids[cut] for cut in cuts], [self._labels[cut] for cut in cuts])
        if self.varlen:
            packed.bounds = [self._bounds(cut.start, cut.stop) for cut in cuts]
            packed.positions = [_positions(bounds) for bounds in packed.bounds]
        done = count * self.size
        self._ids, self._labels = self._ids[done:], self._labels[done:]
        self._ends = [0, *(end - done for end in self._ends if end > done)]
        return packed

    @property
    def waiting(self) -> int:
        """Tokens that wait for the next call."""
        return len(self._ids)

    def _flush(self) -> Packed:
        packed = Packed([], [])
        if not self.drop_last:
            packed = Packed([self._ids], [self._labels])
            if self.varlen:
                packed.bounds = [self._ends]
                packed.positions = [_positions(self._ends)]
        self._ids, self._labels, self._ends = [], [], [0]
        return packed

    def _bounds(self, start: int, stop: int) -> list[int]:
        inside = [end - start for end in self._ends if start < end < stop]
        return [0, *inside, stop - start]


def _positions(bounds: Sequence[int]) -> list[int]:
    return [i for start, stop in pairwise(bounds) for i in range(stop - start)]


def xtuner_rows(
    ids: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    size: int,
    *,
    processes: int = 1,
    varlen: bool = False,
) -> Packed:
    """A whole set packed as XTuner's `process` does: in contiguous shards, each in calls of 1000 samples.

    `processes` is its map_num_proc; every shard loses what waits at its end (reference: xtuner_process.json).
    """
    whole = Packed([], [])
    for start, stop in _shards(len(ids), processes):
        packer = XTunerPacker(size, varlen)
        for at in range(start, stop, CALL):
            part = slice(at, min(at + CALL, stop))
            packed = packer(ids[part], labels[part])
            whole.ids += packed.ids
            whole.labels += packed.labels
            whole.bounds += packed.bounds
            whole.positions += packed.positions
    return whole


def strung(lengths: Sequence[int], size: int, processes: int = 1) -> list[tuple[int, int]]:
    """Start and stop of each row that `xtuner_rows` makes, in the tokens of all samples one after another."""
    starts = list(accumulate(lengths, initial=0))
    rows: list[tuple[int, int]] = []
    for first, last in _shards(len(lengths), processes):
        at = starts[first]
        for call in range(first, last, CALL):
            end = starts[min(call + CALL, last)]
            full = (end - at) // size
            rows += [(at + i * size, at + (i + 1) * size) for i in range(full)] or [(at, end)]
            at = at + full * size if full else end
    return rows


def _shards(count: int, processes: int) -> list[tuple[int, int]]:
    size, more = divmod(count, min(processes, count) or 1)
    starts = [0, *accumulate(size + (i < more) for i in range(min(processes, count)))]
    return list(pairwise(starts))
