"""Products of a frozen base in 8-bit floating point (e4m3), with adapters beside it in 16 bits.

Weights are rounded once, each row of the product's second matrix by a scale of its own, for the forward product and,
turned, for the gradient of the input: two copies of one byte take the place of one of two. Inputs and gradients are
rounded token by token. Adapters are not folded in: an update is smaller than an 8-bit weight's rounding.
The relative error of one product is some 3.8 % on random numbers (arXiv 2209.05433 for the format).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ftx.fast.kernels import eight_bits, gated, gated_backward
from ftx.fast.products import Part, Piece, add_adapter, again, gradients_of, parts_of, precision_of

if TYPE_CHECKING:
    from torch import Tensor


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
    """Weights that share their input, one below the other: e4m3 [sum of out, in] and turned, with their scales."""

    forward: Tensor
    forward_scale: Tensor  # float32 [1, sum of out]
    backward: Tensor  # [in, sum of out]
    backward_scale: Tensor  # float32 [1, in]
    outs: tuple[int, ...]

    @classmethod
    def of(cls, layers: Sequence[Any]) -> Weights:
        """Rounded; the layers' own weights are let go."""
        whole = torch.cat([layer.weight.detach() for layer in layers])
        forward, forward_scale = eight_bits(whole)
        backward, backward_scale = eight_bits(whole.t().contiguous())
        outs = tuple(layer.weight.shape[0] for layer in layers)
        for layer in layers:
            layer.weight.data = layer.weight.data.new_empty(0)
        return cls(forward, forward_scale.t(), backward, backward_scale.t(), outs)

    def product(self, x: Tensor) -> Tensor:
        """x [tokens, in] to [tokens, sum of out]."""
        return _product(x, self.forward, self.forward_scale)

    def input_gradient(self, parts: Sequence[Part], dy: Tensor) -> Tensor:
        """dy [tokens, sum of out] to [tokens, in], through weights and adapters."""
        dx = _product(dy, self.backward, self.backward_scale)
        for part in parts:
            part.add_to(dx)
        return dx


def _product(x: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    small, scale = eight_bits(x)
    made: Tensor = torch._scaled_mm(
        small, weight.t(), scale_a=scale, scale_b=weight_scale, out_dtype=x.dtype, use_fast_accum=True
    )
    return made


def _with_adapters(pieces: Sequence[Piece], weights: Weights, x: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """What the pieces make of x, [tokens, sum of out], and which parts of x their adapters saw."""
    y = weights.product(x)
    parts = y.split(list(weights.outs), dim=1)
    return y, [add_adapter(piece, x, part) for piece, part in zip(pieces, parts, strict=True)]


class EightLinears(torch.autograd.Function):
    """As ftx.fast.products.Linears: apply(pieces, weights, x, *factors)."""

    @staticmethod
    def forward(ctx: Any, pieces: Sequence[Piece], weights: Weights, x: Tensor, *factors: Any) -> tuple[Tensor, ...]:
        ctx.pieces, ctx.weights, ctx.shape, ctx.precision = pieces, weights, x.shape, precision_of(factors)
        flat = x.reshape(-1, x.shape[-1])
        y, seen = _with_adapters(pieces, weights, flat)
        ctx.save_for_backward(flat, *seen)
        # Of a part that is kept, the rest need not be.
        return tuple(part.contiguous().view(*x.shape[:-1], -1) for part in y.split(list(weights.outs), dim=1))

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[Any, ...]:
        x, *seen = ctx.saved_tensors
        dys = [dy.reshape(-1, dy.shape[-1]) for dy in of_outputs]
        parts = parts_of(ctx.pieces, dys, seen)
        gradients = gradients_of(ctx.pieces, parts, x, dys, ctx.precision)
        dx = None
        if ctx.needs_input_grad[2]:
            whole = torch.cat(dys, dim=1) if len(dys) > 1 else dys[0]
            dx = ctx.weights.input_gradient(parts, whole).view(ctx.shape)
        return None, None, dx, *gradients


class EightMLP(torch.autograd.Function):
    """As ftx.fast.products.GatedMLP: apply(pieces, (gate and up, down), x, *factors)."""

    @staticmethod
    def forward(
        ctx: Any, pieces: Sequence[Piece], weights: tuple[Weights, Weights], x: Tensor, *factors: Any
    ) -> Tensor:
        ctx.pieces, ctx.weights, ctx.shape, ctx.precision = pieces, weights, x.shape, precision_of(factors)
        flat = x.reshape(-1, x.shape[-1])
        both, seen = _with_adapters(pieces[:2], weights[0], flat)
        of_down: list[Tensor | None] = [None]
        if again.without_last and not pieces[2].dropped:
            y = flat.new_empty(flat.shape[0], weights[1].outs[0])
        else:
            y, of_down = _with_adapters(pieces[2:], weights[1], gated(*both.chunk(2, dim=1)))
        ctx.save_for_backward(flat, both, *seen, *of_down)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *of_output: Tensor) -> tuple[Any, ...]:
        x, both, *seen = ctx.saved_tensors
        first, last = ctx.pieces[:2], ctx.pieces[2:]
        dy = [of_output[0].reshape(-1, of_output[0].shape[-1])]
        parts = parts_of(last, dy, seen[2:])
        dh = ctx.weights[1].input_gradient(parts, dy[0])
        h, *dys = gated_backward(dh, *both.chunk(2, dim=1))  # the gradients lie in `both`
        of_down = gradients_of(last, parts, h, dy, ctx.precision)
        del h
        parts = parts_of(first, dys, seen[:2])
        of_rest = gradients_of(first, parts, x, dys, ctx.precision)
        dx = ctx.weights[0].input_gradient(parts, both).view(ctx.shape) if ctx.needs_input_grad[2] else None
        return None, None, dx, *of_rest, *of_down
