"""SwiGLU's product and its gradients in one pass each. Imported where Triton is."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _forward(gate_at, up_at, out_at, stride, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * block + tl.arange(0, block)
    inside = at < width
    gate = tl.load(gate_at + row * stride + at, inside, 0.0).to(tl.float32)
    up = tl.load(up_at + row * stride + at, inside, 0.0).to(tl.float32)
    # Rounded where a layer by itself rounds, so that both ways agree to the last bit.
    active = (gate * tl.sigmoid(gate)).to(out_at.dtype.element_ty).to(tl.float32)
    tl.store(out_at + row * width + at, (active * up).to(out_at.dtype.element_ty), inside)


@triton.jit
def _backward(dh_at, gate_at, up_at, stride, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * block + tl.arange(0, block)
    inside = at < width
    dh_at += row * width + at
    gate_at += row * stride + at
    up_at += row * stride + at
    dh = tl.load(dh_at, inside, 0.0).to(tl.float32)
    gate = tl.load(gate_at, inside, 0.0).to(tl.float32)
    up = tl.load(up_at, inside, 0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    active = gate * share
    rounded = active.to(dh_at.dtype.element_ty).to(tl.float32)
    tl.store(dh_at, (rounded * up).to(dh_at.dtype.element_ty), inside)
    tl.store(gate_at, (dh * up * (share + active * (1 - share))).to(gate_at.dtype.element_ty), inside)
    tl.store(up_at, (dh * active).to(up_at.dtype.element_ty), inside)


def forward(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, [rows, width]; the two may be parts of wider rows of one length."""
    rows, width = gate.shape
    out = torch.empty(rows, width, dtype=gate.dtype, device=gate.device)
    _forward[(rows, triton.cdiv(width, BLOCK))](gate, up, out, gate.stride(0), width, BLOCK)
    return out


def backward(dh: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """h in dh's place, the gradient of gate in gate's and that of up in up's."""
    rows, width = gate.shape
    _backward[(rows, triton.cdiv(width, BLOCK))](dh, gate, up, gate.stride(0), width, BLOCK)
    return dh, gate, up
