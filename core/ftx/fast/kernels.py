"""The elementwise parts of a step: one pass over memory on a GPU, the same in torch elsewhere."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


MOST = 448.0  # the largest number of e4m3
LEAST = 1e-12  # of a row's largest magnitude, so that a row of zeros has a scale


@cache
def triton_runs() -> bool:
    """Whether Triton's kernels can be built: torch brings Triton along with CUDA alone."""
    from importlib.util import find_spec

    return torch.cuda.is_available() and find_spec("triton") is not None


def fold(weight: Tensor, b: Tensor, a: Tensor, scale: float, *, into: Tensor | None) -> Tensor:
    """W + s B A, written `into` a tensor of W's shape, which may be W, or into a new one."""
    if weight.is_cuda and triton_runs():
        from ftx.fast import fold_triton

        if fold_triton.fits(weight, b.shape[1]):
            return fold_triton.fold(weight, b, a, scale, into=torch.empty_like(weight) if into is None else into)
    return torch.addmm(weight, b, a, alpha=scale) if into is None else into.addmm_(b, a, alpha=scale)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of one shape each."""
    if gate.is_cuda and triton_runs():
        from ftx.fast import gated_triton

        return gated_triton.forward(gate, up)
    return F.silu(gate) * up


def gated_backward(dh: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """h = silu(gate) * up and the gradients of gate and up, given that of h; all three inputs may be overwritten."""
    if gate.is_cuda and triton_runs():
        from ftx.fast import gated_triton

        return gated_triton.backward(dh, gate, up)
    share = torch.sigmoid(gate)
    active = gate * share
    dgate = dh * up * (share + active * (1 - share))
    return active * up, dgate, dh * active


def eight_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in e4m3, [rows, width], and their scales, float32 [rows, 1]."""
    if x.is_cuda and triton_runs():
        from ftx.fast import eight_triton

        return eight_triton.eight_bits(x)
    scale = x.float().abs().amax(1, keepdim=True).clamp(min=LEAST) / MOST
    return (x / scale).to(torch.float8_e4m3fn), scale
