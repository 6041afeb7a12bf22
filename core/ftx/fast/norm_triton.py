"""RMS norm with a weight that is not trained: each row read once. Imported where Triton is.

As Llama's in transformers: the row is normalised in float32, rounded, and then multiplied by the weight.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _forward(x_at, weight_at, y_at, scale_at, width, eps, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    inside = at < width
    x = tl.load(x_at + row * width + at, inside, 0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x) / width + eps)
    tl.store(scale_at + row, scale)
    weight = tl.load(weight_at + at, inside, 0.0)
    tl.store(y_at + row * width + at, (x * scale).to(y_at.dtype.element_ty) * weight, inside)


@triton.jit
def _backward(dy_at, x_at, weight_at, scale_at, dx_at, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    inside = at < width
    scale = tl.load(scale_at + row)
    normal = tl.load(x_at + row * width + at, inside, 0.0).to(tl.float32) * scale
    weight = tl.load(weight_at + at, inside, 0.0).to(tl.float32)
    dnormal = tl.load(dy_at + row * width + at, inside, 0.0).to(tl.float32) * weight
    dx = scale * (dnormal - normal * (tl.sum(dnormal * normal) / width))
    tl.store(dx_at + row * width + at, dx.to(dx_at.dtype.element_ty), inside)


class Norm(torch.autograd.Function):
    """apply(x [..., width], weight [width], eps): as x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        rows, width = flat.shape
        y = torch.empty_like(flat)
        scale = torch.empty(rows, dtype=torch.float32, device=x.device)
        ctx.block = triton.next_power_of_2(width)
        ctx.warps = min(16, max(4, ctx.block // 512))
        _forward[(rows,)](flat, weight, y, scale, width, eps, ctx.block, num_warps=ctx.warps)
        ctx.save_for_backward(flat, weight, scale)
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None, None]:
        flat, weight, scale = ctx.saved_tensors
        # A new tensor: where a sum follows the norm, its other part has the same gradient.
        dx = torch.empty_like(given[0], memory_format=torch.contiguous_format)
        dy = given[0].contiguous()
        _backward[(flat.shape[0],)](dy, flat, weight, scale, dx, flat.shape[1], ctx.block, num_warps=ctx.warps)
        return dx, None, None
