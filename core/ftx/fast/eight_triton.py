"""Rows rounded to 8 bits, each by its own largest magnitude. Imported where Triton is."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ftx.fast.kernels import LEAST, MOST


@triton.jit
def _round(x_at, stride, small_at, scale_at, width, most, least, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    inside = at < width
    x = tl.load(x_at + row * stride + at, inside, 0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x)), least) / most
    tl.store(scale_at + row, scale)
    tl.store(small_at + row * width + at, (x / scale).to(small_at.dtype.element_ty), inside)


def eight_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 [rows, width] and float32 [rows, 1], whose product is x but for its rounding."""
    rows, width = x.shape
    small = torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    warps = min(16, max(4, block // 1024))
    _round[(rows,)](x, x.stride(0), small, scale, width, MOST, LEAST, block, num_warps=warps)
    return small, scale
