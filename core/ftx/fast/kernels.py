"""The elementwise parts of a step: one pass over memory on a GPU, the same in torch elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
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


def eight_bits(
    xs: Sequence[Tensor], beside: tuple[Tensor, Tensor] | None = None, *, room: int = 0, least: float = LEAST
) -> tuple[Tensor, Tensor]:
    """Rows of up to three tensors side by side in e4m3, [rows, sum of widths + room], and scales, float32 [rows, 1].

    The `room` behind a row holds zeros, or what stands `beside` it: [rows, room], and what its columns are multiplied
    by, float32 [room]; all share the row's scale. A row's largest magnitude counts as `least` at least.
    """
    if xs[0].is_cuda and triton_runs():
        from ftx.fast import eight_triton

        return eight_triton.eight_bits(xs, beside, room, least)
    behind = xs[0].new_zeros(len(xs[0]), room) if beside is None else beside[0] * beside[1]
    wide = torch.cat([*xs, behind], dim=1).float()
    scale = wide.abs().amax(1, keepdim=True).clamp(min=least) / MOST
    return (wide / scale).to(torch.float8_e4m3fn), scale


@dataclass(frozen=True)
class Placed:
    """A factor [rows, columns] times `alpha`, over rows' `scale` and columns' `times`, float32, is written `into` e4m3.

    `into` may be part of wider rows.
    """

    factor: Tensor
    scale: Tensor
    times: Tensor
    into: Tensor
    alpha: float = 1.0


def place(all_placed: Sequence[Placed]) -> None:
    """Write all of them."""
    for one in all_placed:
        if one.factor.is_cuda and triton_runs():
            from ftx.fast import eight_triton

            eight_triton.place(one)
        else:
            one.into.copy_((one.alpha * one.factor / one.scale.unsqueeze(1) / one.times).to(one.into.dtype))


def placing(all_placed: Sequence[Placed]) -> Callable[[], None]:
    """What writes all of them anew from the same tensors, each time that it is called; on a GPU in one kernel."""
    if all_placed[0].factor.is_cuda and triton_runs():
        from ftx.fast import eight_triton

        if eight_triton.at_once(all_placed):
            return eight_triton.Placing(all_placed)
    return partial(place, all_placed)
