"""Products of a frozen base in 8-bit floating point (e4m3), with adapters beside it.

Weights are rounded once, each row of the product's second matrix by a scale of its own, for the forward product and,
turned, for the gradient of the input: two copies of one byte take the place of one of two. Inputs and gradients are
rounded token by token. Adapters are not folded in, as an update is smaller than an 8-bit weight's rounding: they stand
in columns behind the weights (ftx.fast.eight_adapters), or are added in 16 bits where they cannot.
The relative error of one product is some 3.8 % on random numbers (arXiv 2209.05433 for the format).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ftx.fast.eight_adapters import Columns
from ftx.fast.kernels import LEAST, eight_bits, gated, gated_backward
from ftx.fast.products import Part, Piece, add_adapter, again, gradients_of, parts_of, precision_of

if TYPE_CHECKING:
    from torch import Tensor

FLOOR = 64.0  # a row counts as no smaller than the largest over this: what stands behind it shares its scale


def can() -> bool:
    """Whether the GPU multiplies 8-bit floating point: Hopper and later, and Ada."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)


def fits(layers: Sequence[Any]) -> bool:
    """Whether the layers' weights can be held so: 16-bit, without bias, of sizes that the units take."""
    return all(
        layer.bias is None
        and layer.weight.dtype == torch.bfloat16
        and not any(size % 16 for size in layer.weight.shape)
        for layer in layers
    )


def holds(layer: Any) -> bool:
    """Whether a layer's weight has been taken over by `Weights`."""
    return type(layer) is torch.nn.Linear and not layer.weight.numel()


@dataclass(frozen=True)
class Weights:
    """Weights that share their input, one below the other: e4m3 [sum of out, in] and turned, with their scales.

    Behind the rows of both is room for the factors of adapters, B and A turned, if they stand there.
    """

    forward: Tensor  # [sum of out, in + room]
    forward_scale: Tensor  # float32 [1, sum of out]
    backward: Tensor  # [in, sum of out + room]
    backward_scale: Tensor  # float32 [1, in]
    outs: tuple[int, ...]
    columns: Columns | None

    @classmethod
    def of(cls, layers: Sequence[Any], columns: Columns | None) -> Weights:
        """Rounded; the layers' own weights are let go."""
        whole = torch.cat([layer.weight.detach() for layer in layers])
        room, least = columns.room if columns else 0, max(LEAST, float(whole.abs().max()) / FLOOR)
        forward, forward_scale = eight_bits([whole], room=room, least=least)
        backward, backward_scale = eight_bits([whole.t().contiguous()], room=room, least=least)
        outs = tuple(layer.weight.shape[0] for layer in layers)
        for layer in layers:
            layer.weight.data = layer.weight.data.new_empty(0)
        if columns:
            columns.take(forward, forward_scale, backward, backward_scale, outs)
        return cls(forward, forward_scale.t(), backward, backward_scale.t(), outs, columns)

    def product(self, pieces: Sequence[Piece], x: Tensor) -> Made:
        """What the pieces make of x, [tokens, in], side by side."""
        inner, small, scale = self._rounded(pieces, x)
        y = _product(small, scale, self.forward, self.forward_scale, x.dtype)
        return self._with_adapters(pieces, x, [y], y.split(list(self.outs), dim=1), inner)

    def products(self, pieces: Sequence[Piece], x: Tensor) -> Made:
        """The same, each for itself: of one that is kept, the others need not be."""
        inner, small, scale = self._rounded(pieces, x)
        rows = zip(self.forward.split(self.outs), self.forward_scale.split(self.outs, dim=1), strict=True)
        ys = [_product(small, scale, weight, own, x.dtype) for weight, own in rows]
        return self._with_adapters(pieces, x, ys, ys, inner)

    def _rounded(self, pieces: Sequence[Piece], x: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        if self.columns is None:
            return None, *eight_bits([x])
        inner = self.columns.inner(pieces, x)
        return inner, *eight_bits([x], (inner, self.columns.inner_times))

    def _with_adapters(
        self, pieces: Sequence[Piece], x: Tensor, made: Sequence[Tensor], each: Sequence[Tensor], inner: Tensor | None
    ) -> Made:
        if self.columns:
            return Made(list(made), inner, [None] * len(pieces))
        return Made(list(made), None, [add_adapter(piece, x, y) for piece, y in zip(pieces, each, strict=True)])

    def input_gradient(self, parts: Sequence[Part], dys: Sequence[Tensor]) -> Tensor:
        """dys, [tokens, out] each, to [tokens, in], through weights and adapters."""
        dtype = dys[0].dtype
        if self.columns:
            small, scale = eight_bits(dys, (self.columns.padded(parts[0].outer), self.columns.outer_times))
            return _product(small, scale, self.backward, self.backward_scale, dtype)
        dx = _product(*eight_bits(dys), self.backward, self.backward_scale, dtype)
        for part in parts:
            part.add_to(dx)
        return dx


@dataclass(frozen=True)
class Made:
    """Outputs, [tokens, out]; what adapters made of their input with A, if kept, and which parts of it they saw."""

    ys: list[Tensor]
    inner: Tensor | None
    seen: list[Tensor | None]


def _product(x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, dtype: torch.dtype) -> Tensor:
    made: Tensor = torch._scaled_mm(
        x, weight.t(), scale_a=x_scale, scale_b=weight_scale, out_dtype=dtype, use_fast_accum=True
    )
    return made


class EightLinears(torch.autograd.Function):
    """As ftx.fast.products.Linears: apply(pieces, weights, x, *factors)."""

    @staticmethod
    def forward(ctx: Any, pieces: Sequence[Piece], weights: Weights, x: Tensor, *factors: Any) -> tuple[Tensor, ...]:
        ctx.pieces, ctx.weights, ctx.shape, ctx.precision = pieces, weights, x.shape, precision_of(factors)
        flat = x.reshape(-1, x.shape[-1])
        made = weights.products(pieces, flat)
        ctx.save_for_backward(flat, made.inner, *made.seen)
        return tuple(y.view(*x.shape[:-1], -1) for y in made.ys)

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[Any, ...]:
        x, inner, *seen = ctx.saved_tensors
        dys = [dy.reshape(-1, dy.shape[-1]) for dy in of_outputs]
        parts = parts_of(ctx.pieces, dys, seen)
        gradients = gradients_of(ctx.pieces, parts, x, dys, ctx.precision, inner)
        dx = None
        if ctx.needs_input_grad[2]:
            dx = ctx.weights.input_gradient(parts, dys).view(ctx.shape)
        return None, None, dx, *gradients


class EightMLP(torch.autograd.Function):
    """As ftx.fast.products.GatedMLP: apply(pieces, (gate and up, down), x, *factors)."""

    @staticmethod
    def forward(
        ctx: Any, pieces: Sequence[Piece], weights: tuple[Weights, Weights], x: Tensor, *factors: Any
    ) -> Tensor:
        ctx.pieces, ctx.weights, ctx.shape, ctx.precision = pieces, weights, x.shape, precision_of(factors)
        flat = x.reshape(-1, x.shape[-1])
        first = weights[0].product(pieces[:2], flat)
        (both,) = first.ys
        if again.without_last and not pieces[2].dropped:
            down = Made([flat.new_empty(flat.shape[0], weights[1].outs[0])], None, [None])
        else:
            down = weights[1].product(pieces[2:], gated(*both.chunk(2, dim=1)))
        # Not what the last adapter makes of its input with A: it is not there when the layer is computed again.
        ctx.save_for_backward(flat, both, first.inner, *first.seen, *down.seen)
        return down.ys[0].view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *of_output: Tensor) -> tuple[Any, ...]:
        x, both, inner, *seen = ctx.saved_tensors
        first, last = ctx.pieces[:2], ctx.pieces[2:]
        dy = [of_output[0].reshape(-1, of_output[0].shape[-1])]
        parts = parts_of(last, dy, seen[2:])
        dh = ctx.weights[1].input_gradient(parts, dy)
        h, *dys = gated_backward(dh, *both.chunk(2, dim=1))  # the gradients lie in `both`
        of_down = gradients_of(last, parts, h, dy, ctx.precision)
        del h
        parts = parts_of(first, dys, seen[:2])
        of_rest = gradients_of(first, parts, x, dys, ctx.precision, inner)
        dx = ctx.weights[0].input_gradient(parts, [both]).view(ctx.shape) if ctx.needs_input_grad[2] else None
        return None, None, dx, *of_rest, *of_down
