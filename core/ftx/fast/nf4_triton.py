"""A weight in bitsandbytes' nf4 made dense in one pass, its quantised constants included. Imported where Triton is.

Two weights lie in a byte, the first in the high half; each block of 64 has a largest magnitude, which is itself 8 bits
of a table times the largest of a block of 256 of them, above a mean (arXiv 2305.14314).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BYTES = 2048  # that a program takes


@triton.jit
def _dense(  # type: ignore[no-untyped-def]
    packed_at, table_at, small_at, scales_at, levels_at, mean_at, out_at, count, half, group, block: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    packed = tl.load(packed_at + at, inside, 0).to(tl.int32)
    of_block = at // half
    small = tl.load(small_at + of_block, inside, 0).to(tl.int32)
    largest = tl.load(levels_at + small) * tl.load(scales_at + of_block // group, inside, 0.0) + tl.load(mean_at)
    first = tl.load(table_at + (packed >> 4)) * largest
    second = tl.load(table_at + (packed & 15)) * largest
    both = tl.interleave(first, second).to(out_at.dtype.element_ty)
    places = tl.program_id(0).to(tl.int64) * block * 2 + tl.arange(0, block * 2)
    tl.store(out_at + places, both, places < count * 2)


def fits(state: Any) -> bool:
    """Whether a bitsandbytes QuantState is one that the kernel reads."""
    return bool(state.nested) and state.quant_type == "nf4" and state.code.numel() == 16


def dense(packed: Tensor, state: Any, dtype: torch.dtype) -> Tensor:
    """The weight, [out, in]."""
    out = torch.empty(state.shape, dtype=dtype, device=packed.device)
    count = packed.numel()
    second = state.state2
    _dense[(triton.cdiv(count, BYTES),)](
        packed,
        state.code,
        state.absmax,
        second.absmax,
        second.code,
        state.offset,
        out,
        count,
        state.blocksize // 2,
        second.blocksize,
        BYTES,
        num_warps=8,
    )
    return out
