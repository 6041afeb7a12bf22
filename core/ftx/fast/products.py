"""Linear layers with low-rank adapters, W + s B A, as products that keep nothing of size in x out.

Two forms with the same result. Folded: y = x (W + s B A)^T, and the gradient of x through the same sum, which is made
anew each time; gradients of A and B come from products of rank r alone. Split: y = x W^T + s (x A^T) B^T. Folding costs
a pass over the weight, splitting passes over the outputs: which is cheaper depends on how many tokens share a weight.

Layers that read the same input are computed together: their gradients of it are summed by the products themselves, and
the input meets all their A at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from ftx.fast.kernels import fold, gated, gated_backward
from ftx.fast.weight import dense

if TYPE_CHECKING:
    from torch import Tensor

Form = Literal["auto", "folded", "split"]
Low = Callable[[], "Tensor"]


@dataclass(frozen=True)
class Piece:
    """One layer of a group: its base, and scale s, A [rank, in] and B [out, rank] of its adapter, if it has one.

    A and B come in the precision of the products, made of the parameters, which gradients go to; `whole` is a weight
    [out, in] that is itself trained. With `drop`, a Dropout, the adapter reads an input of which a part is left
    out: then it cannot be folded.
    """

    layer: Any
    scale: float = 1.0
    form: Form = "auto"
    drop: Any = None
    low_a: Low | None = None
    low_b: Low | None = None
    low_whole: Low | None = None

    @property
    def adapted(self) -> bool:
        return self.low_a is not None

    @property
    def a(self) -> Tensor | None:
        return self.low_a() if self.low_a else None

    @property
    def b(self) -> Tensor | None:
        return self.low_b() if self.low_b else None

    @property
    def whole(self) -> Tensor | None:
        return self.low_whole() if self.low_whole else None

    @property
    def dropped(self) -> float:
        """The share of the adapter's input that is left out now."""
        return float(self.drop.p) if self.drop is not None and self.drop.training else 0.0

    def weight(self, dtype: torch.dtype, *, folded: bool) -> Tensor:
        """The matrix that inputs are multiplied by, [out, in]: with the adapter folded in, or the base's alone."""
        if (whole := self.whole) is not None:
            return whole
        weight, own = dense(self.layer, dtype)
        if not folded or (a := self.a) is None or (b := self.b) is None:
            return weight
        return fold(weight, b, a, self.scale, into=weight if own else None)


def folds(pieces: Sequence[Piece], tokens: int, size: int) -> bool:
    """Whether to fold the adapters of pieces that are computed together.

    Folding reads and writes their weights, and splitting the outputs or, backward, their input's gradient: of `tokens`
    rows it is the cheaper where these are more than `size`, the other dimension of the weights.
    """
    form = pieces[0].form
    if any(piece.drop is not None for piece in pieces):
        return False
    return tokens > size if form == "auto" else form == "folded"


def forward_of(piece: Piece, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """x [tokens, in] to [tokens, out], and which parts of x the adapter saw: bool, as x; None for all."""
    folded = folds([piece], x.shape[0], x.shape[1])
    weight, bias = piece.weight(x.dtype, folded=folded), piece.layer.bias
    y = torch.mm(x, weight.t()) if bias is None else torch.addmm(bias.to(x.dtype), x, weight.t())
    return y, None if folded else add_adapter(piece, x, y)


def add_adapter(piece: Piece, x: Tensor, y: Tensor) -> Tensor | None:
    """Add to y [tokens, out], in place, what the adapter makes of x; which parts of x it saw."""
    if (a := piece.a) is None or (b := piece.b) is None:
        return None
    seen = None
    if share := piece.dropped:
        x, seen = torch.native_dropout(x, share, True)
    y.addmm_(torch.mm(x, a.t()), b.t(), alpha=piece.scale)
    return seen


@dataclass(frozen=True)
class Part:
    """Adapters that read one input, in the backward pass: `outer` is what met their B, `seen` what they saw of it.

    A [sum of ranks, in] and `outer` [tokens, sum of ranks], scales included, lie side by side.
    """

    indices: list[int]
    ranks: list[int]
    a: Tensor
    outer: Tensor
    seen: Tensor | None
    kept: float  # what seen parts were multiplied by

    def read(self, x: Tensor) -> Tensor:
        """What they saw of the input."""
        return x if self.seen is None else x * self.seen * self.kept

    def add_to(self, dx: Tensor) -> None:
        """Add to dx [tokens, in], in place, what comes through the adapters."""
        if self.seen is None:
            dx.addmm_(self.outer, self.a)
        else:
            dx.addcmul_(torch.mm(self.outer, self.a), self.seen.to(dx.dtype), value=self.kept)


def parts_of(pieces: Sequence[Piece], dys: Sequence[Tensor], seen: Sequence[Tensor | None]) -> list[Part]:
    """The adapters of pieces that read one input: together those that saw all of it, the others one by one."""
    adapted = [i for i, piece in enumerate(pieces) if piece.adapted]
    together = [i for i in adapted if seen[i] is None]
    groups = [together] * bool(together) + [[i] for i in adapted if seen[i] is not None]
    return [_part(group, pieces, dys, seen[group[0]]) for group in groups]


def _part(group: list[int], pieces: Sequence[Piece], dys: Sequence[Tensor], seen: Tensor | None) -> Part:
    factors = [
        (pieces[i].scale, a, b) for i in group if (a := pieces[i].a) is not None and (b := pieces[i].b) is not None
    ]
    ranks = [a.shape[0] for _, a, _ in factors]
    outer = dys[0].new_empty(dys[0].shape[0], sum(ranks))
    parts = outer.split(ranks, dim=1)
    for i, (_, _, b), met in zip(group, factors, parts, strict=True):
        torch.mm(dys[i], b, out=met)
    for scale in {scale for scale, _, _ in factors}:
        torch._foreach_mul_([met for met, (own, _, _) in zip(parts, factors, strict=True) if own == scale], scale)
    kept = 1.0 if seen is None else 1 / (1 - float(pieces[group[0]].drop.p))
    return Part(group, ranks, torch.cat([a for _, a, _ in factors]), outer, seen, kept)


def gradients_of(
    pieces: Sequence[Piece],
    parts: Sequence[Part],
    x: Tensor,
    dys: Sequence[Tensor],
    dtype: torch.dtype,
    kept: Tensor | None = None,
) -> list[Tensor | None]:
    """Gradients of each A and B, one after the other, in `dtype`; of a weight that is trained whole, in A's place.

    The input is read once for all adapters that saw all of it. `kept`, of a single part: x A^T, or more columns.
    """
    found: dict[int, tuple[Tensor, Tensor | None]] = {
        i: (_product(dys[i].t(), x, dtype), None) for i, piece in enumerate(pieces) if piece.low_whole
    }
    for part in parts:
        read = part.read(x)
        met = torch.mm(read, part.a.t()) if kept is None else kept[:, : sum(part.ranks)]
        inner = met.split(part.ranks, dim=1)
        of_a = _product(part.outer.t(), read, dtype).split(part.ranks)
        for i, h, one in zip(part.indices, inner, of_a, strict=True):
            found[i] = one, _product(dys[i].t(), h, dtype).mul_(pieces[i].scale)
    return [gradient for i in range(len(pieces)) for gradient in found.get(i, (None, None))]


def input_gradient(pieces: Sequence[Piece], parts: Sequence[Part], dys: Sequence[Tensor]) -> Tensor:
    """The gradient of what the pieces read, [tokens, in]: their products add to each other."""
    folded = folds(pieces, dys[0].shape[0], sum(dy.shape[1] for dy in dys))
    dx: Tensor | None = None
    for piece, dy in zip(pieces, dys, strict=True):
        weight = piece.weight(dy.dtype, folded=folded)
        dx = torch.mm(dy, weight) if dx is None else dx.addmm_(dy, weight)
    assert dx is not None
    for part in parts if not folded else ():
        part.add_to(dx)
    return dx


def _product(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """x y in `dtype`; sums of 16-bit numbers are not rounded on their way to 32."""
    if x.dtype == dtype:
        return torch.mm(x, y)
    if x.is_cuda:
        return torch.mm(x, y, out_dtype=dtype)
    return torch.mm(x, y).to(dtype)


def precision_of(factors: Sequence[Tensor | None]) -> torch.dtype:
    """Of the parameters, and of their gradients; where there are none, whatever."""
    return next((factor.dtype for factor in factors if factor is not None), torch.float32)


class Linears(torch.autograd.Function):
    """Linear layers that read one input: x [..., in] to a tuple of [..., out].

    apply(pieces, x, *factors), factors being the parameters A and B of each piece. Of the input, x alone is kept.
    """

    @staticmethod
    def forward(ctx: Any, pieces: Sequence[Piece], x: Tensor, *factors: Tensor | None) -> tuple[Tensor, ...]:
        ctx.pieces, ctx.shape, ctx.precision = pieces, x.shape, precision_of(factors)
        flat = x.reshape(-1, x.shape[-1])
        made = [forward_of(piece, flat) for piece in pieces]
        ctx.save_for_backward(flat, *(seen for _, seen in made))
        return tuple(y.view(*x.shape[:-1], -1) for y, _ in made)

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[Any, ...]:
        x, *seen = ctx.saved_tensors
        dys = [dy.reshape(-1, dy.shape[-1]) for dy in of_outputs]
        parts = parts_of(ctx.pieces, dys, seen)
        gradients = gradients_of(ctx.pieces, parts, x, dys, ctx.precision)
        dx = input_gradient(ctx.pieces, parts, dys).view(ctx.shape) if ctx.needs_input_grad[1] else None
        return None, dx, *gradients


class GatedMLP(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)) (SwiGLU, arXiv 2002.05202): x [..., in] to [..., in].

    apply(pieces, x, *factors), pieces in the order gate, up, down. Kept are x and what gate and up give; their product
    is made again. Backward writes into what was kept, so that it can run once.
    """

    @staticmethod
    def forward(ctx: Any, pieces: Sequence[Piece], x: Tensor, *factors: Tensor | None) -> Tensor:
        ctx.pieces, ctx.shape, ctx.precision = pieces, x.shape, precision_of(factors)
        flat = x.reshape(-1, x.shape[-1])
        (gate, of_gate), (up, of_up) = (forward_of(piece, flat) for piece in pieces[:2])
        if again.without_last and not pieces[2].dropped:
            y, of_down = flat.new_empty(flat.shape[0], pieces[2].layer.out_features), None
        else:
            y, of_down = forward_of(pieces[2], gated(gate, up))
        ctx.save_for_backward(flat, gate, up, of_gate, of_up, of_down)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *of_output: Tensor) -> tuple[Any, ...]:
        x, gate, up, *seen = ctx.saved_tensors
        first, last = ctx.pieces[:2], ctx.pieces[2:]
        dy = [of_output[0].reshape(-1, of_output[0].shape[-1])]
        parts = parts_of(last, dy, seen[2:])
        h, *dys = gated_backward(input_gradient(last, parts, dy), gate, up)
        of_down = gradients_of(last, parts, h, dy, ctx.precision)
        del h
        parts = parts_of(first, dys, seen[:2])
        of_rest = gradients_of(first, parts, x, dys, ctx.precision)
        dx = input_gradient(first, parts, dys).view(ctx.shape) if ctx.needs_input_grad[1] else None
        return None, dx, *of_rest, *of_down


class _Again:
    """Whether what runs now is a layer computed again for its gradients, whose last product nothing asks for."""

    without_last = False


again = _Again()
