"""Adapters in columns behind 8-bit weights: one product does what a frozen weight and s B A do to an input.

y = [x, h] [W, s B]^T with h = x A^T, and dx = [dy, g] [W; A] with g = s dy B. Columns of h and of s B, and of g and A,
share the scales of the rows that they stand in; h is multiplied by what s B is divided by, a power of two that is
chosen before each pass so that the largest of s B is in reach of the least scale of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from ftx.fast.groups import WIDEST
from ftx.fast.kernels import MOST, Placed, place, placing

if TYPE_CHECKING:
    from torch import Tensor

    from ftx.fast.products import Piece

UNIT = 16  # columns come in multiples of this
LEAST = 1 / 16  # that h and g are multiplied by: they are about as large as what they stand behind


class Columns:
    """The columns of adapters that read one input."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = [(i, piece) for i, piece in enumerate(pieces) if piece.adapted]
        self.ranks = [_given(piece.a).shape[0] for _, piece in self.pieces]
        self.room = -(-sum(self.ranks) // UNIT) * UNIT

    @staticmethod
    def stand(pieces: Sequence[Piece]) -> bool:
        """Whether the pieces' adapters can: where none drops parts of its input, and they are not too many."""
        ranks = [a.shape[0] for piece in pieces if (a := piece.a) is not None]
        return bool(ranks) and sum(ranks) <= WIDEST and not any(piece.drop is not None for piece in pieces)

    def take(
        self, forward: Tensor, forward_scale: Tensor, backward: Tensor, backward_scale: Tensor, outs: Sequence[int]
    ) -> None:
        """Stand behind these weights, [rows, columns + room], and share their scales, float32 [rows, 1]."""
        self.leasts = float(forward_scale.min()), float(backward_scale.min())
        self._places = []
        ends, start = list(accumulate(outs)), 0
        for (index, piece), rank in zip(self.pieces, self.ranks, strict=True):
            rows, columns = slice(ends[index] - outs[index], ends[index]), slice(start, start + rank)
            of_b = forward[rows, forward.shape[1] - self.room :][:, columns]
            of_a = backward[:, backward.shape[1] - self.room :][:, columns]
            self._places.append((piece, columns, forward_scale[rows, 0], of_b, backward_scale[:, 0], of_a))
            start += rank

    def follow(self, inner: Tensor, outer: Tensor) -> None:
        """Stand by what h and g are multiplied by, float32 [room] each, which is written anew before each pass."""
        self.inner_times, self.outer_times = inner, outer

    def placed(self) -> list[Placed]:
        """Where the factors are to be written, as they are now."""
        made = []
        for piece, columns, forward_scale, of_b, backward_scale, of_a in self._places:
            made.append(Placed(_given(piece.b), forward_scale, self.inner_times[columns], of_b, piece.scale))
            made.append(Placed(_given(piece.a).t(), backward_scale, self.outer_times[columns], of_a))
        return made

    def inner(self, pieces: Sequence[Piece], x: Tensor) -> Tensor:
        """h, [tokens, room]."""
        a = torch.cat([_given(piece.a) for piece in pieces if piece.adapted])
        return torch.mm(x, F.pad(a, (0, 0, 0, self.room - a.shape[0])).t())

    def padded(self, outer: Tensor) -> Tensor:
        """g, [tokens, sum of ranks], as [tokens, room]."""
        return F.pad(outer, (0, self.room - outer.shape[1]))


class Adapters:
    """All adapters of a model that stand behind weights."""

    def __init__(self) -> None:
        self._groups: list[Columns] = []
        self._write: Callable[[], None] | None = None

    def columns(self, pieces: Sequence[Piece]) -> Columns | None:
        """For pieces that read one input, if their adapters can stand behind their weights."""
        if not Columns.stand(pieces):
            return None
        self._groups.append(Columns(pieces))
        return self._groups[-1]

    def refresh(self, *_: Any) -> None:
        """Before a pass: write all factors as they are now, each in reach of what it stands behind."""
        if not self._groups:
            return
        found = [(piece, group) for group in self._groups for _, piece in group.pieces]
        factors = [_given(one) for piece, _ in found for one in (piece.b, piece.a)]
        if self._write is None:
            with torch.inference_mode(False):  # these stay, and the first pass may be an answer's
                self._write = self._begun(found, factors[0].device)
        largest = torch.stack(torch._foreach_norm(factors, ord=math.inf)).to(self._reach.dtype)
        times = (largest * self._reach).clamp_(min=LEAST).log2_().ceil_().exp2_()
        torch.index_select(times, 0, self._which, out=self._times)
        self._write()

    def _begun(self, found: Sequence[tuple[Piece, Columns]], device: torch.device) -> Callable[[], None]:
        """What writes the factors where they stand."""
        self._lay_out(found, device)
        stay = all(piece.b is piece.b and piece.a is piece.a for piece, _ in found)
        return placing(self._placed()) if stay else lambda: place(self._placed())

    def _placed(self) -> list[Placed]:
        return [one for group in self._groups for one in group.placed()]

    def _lay_out(self, found: Sequence[tuple[Piece, Columns]], device: torch.device) -> None:
        """Which factor each column's multiplier follows, and what its largest number is multiplied by for that."""
        scales = [one for piece, _ in found for one in (piece.scale, 1.0)]
        leasts = [least for _, group in found for least in group.leasts]
        reach = [scale / (MOST * least) for scale, least in zip(scales, leasts, strict=True)]
        which: list[int] = []
        at = 0
        for group in self._groups:
            for side in (0, 1):
                own = [2 * (at + i) + side for i, rank in enumerate(group.ranks) for _ in range(rank)]
                which += own + own[-1:] * (group.room - len(own))
            at += len(group.ranks)
        self._reach = torch.tensor(reach, dtype=torch.float32, device=device)
        self._which = torch.tensor(which, device=device)
        self._times = torch.empty(len(which), dtype=torch.float32, device=device)
        views = self._times.split([group.room for group in self._groups for _ in range(2)])
        for group, inner, outer in zip(self._groups, views[::2], views[1::2], strict=True):
            group.follow(inner, outer)


def _given(factor: Tensor | None) -> Tensor:
    assert factor is not None
    return factor
