"""W + s B A in one pass over W. Imported where Triton is."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 64, 128


@triton.jit
def _fold(  # type: ignore[no-untyped-def]
    w_at,
    b_at,
    a_at,
    out_at,
    rows,
    columns,
    scale,
    rank: tl.constexpr,
    tall: tl.constexpr,
    wide: tl.constexpr,
    whole: tl.constexpr,
):
    # Programs side by side take tiles side by side, so that rows are read on.
    row = tl.program_id(1) * tall + tl.arange(0, tall)
    column = tl.program_id(0) * wide + tl.arange(0, wide)
    inner = tl.arange(0, rank)
    if whole:  # no tile reaches over an edge: without masks it takes a third less time on an H200
        at = row[:, None] * columns + column[None, :]
        weight = tl.load(w_at + at, cache_modifier=".cg")
        b = tl.load(b_at + row[:, None] * rank + inner[None, :])
        a = tl.load(a_at + inner[:, None] * columns + column[None, :])
        tl.store(out_at + at, (weight.to(tl.float32) + scale * tl.dot(b, a)).to(out_at.dtype.element_ty))
    else:
        at = row[:, None].to(tl.int64) * columns + column[None, :]
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        weight = tl.load(w_at + at, inside, 0.0)
        b = tl.load(b_at + row[:, None] * rank + inner[None, :], row[:, None] < rows, 0.0)
        a = tl.load(a_at + inner[:, None] * columns + column[None, :], column[None, :] < columns, 0.0)
        tl.store(out_at + at, (weight.to(tl.float32) + scale * tl.dot(b, a)).to(out_at.dtype.element_ty), inside)


def fits(weight: Tensor, rank: int) -> bool:
    """Whether the kernel takes it: 16-bit, and a rank that the matrix units hold whole."""
    return weight.dtype in (torch.bfloat16, torch.float16) and rank in (16, 32, 64, 128) and weight.is_contiguous()


def fold(weight: Tensor, b: Tensor, a: Tensor, scale: float, *, into: Tensor) -> Tensor:
    """W [out, in], B [out, rank], A [rank, in], contiguous; the sum, rounded once, goes to `into`, which may be W."""
    rows, columns = weight.shape
    grid = (triton.cdiv(columns, COLUMNS), triton.cdiv(rows, ROWS))
    whole = rows % ROWS == 0 and columns % COLUMNS == 0 and weight.numel() < 2**31
    _fold[grid](weight, b, a, into, rows, columns, scale, b.shape[1], ROWS, COLUMNS, whole, num_warps=4)
    return into
