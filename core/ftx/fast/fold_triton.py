"""W + s B A in one pass over W. Imported where Triton is."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 64, 256


@triton.jit
def _fold(w_at, b_at, a_at, out_at, rows, columns, scale, rank: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0) * tall + tl.arange(0, tall)
    column = tl.program_id(1) * wide + tl.arange(0, wide)
    inner = tl.arange(0, rank)
    b = tl.load(b_at + row[:, None] * rank + inner[None, :], row[:, None] < rows, 0.0)
    a = tl.load(a_at + inner[:, None] * columns + column[None, :], column[None, :] < columns, 0.0)
    at = row[:, None].to(tl.int64) * columns + column[None, :]
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    weight = tl.load(w_at + at, inside, 0.0).to(tl.float32)
    tl.store(out_at + at, (weight + scale * tl.dot(b, a)).to(out_at.dtype.element_ty), inside)


def fits(weight: Tensor, rank: int) -> bool:
    """Whether the kernel takes it: 16-bit, and a rank that the matrix units hold whole."""
    return weight.dtype in (torch.bfloat16, torch.float16) and rank in (16, 32, 64, 128) and weight.is_contiguous()


def fold(weight: Tensor, b: Tensor, a: Tensor, scale: float, *, into: Tensor) -> Tensor:
    """W [out, in], B [out, rank], A [rank, in], contiguous; the sum, rounded once, goes to `into`, which may be W."""
    rows, columns = weight.shape
    grid = (triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS))
    _fold[grid](weight, b, a, into, rows, columns, scale, b.shape[1], ROWS, COLUMNS, num_warps=8)
    return into
