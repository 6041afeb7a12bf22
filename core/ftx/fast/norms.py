"""RMS norms and rotary positions by kernels of their own on a GPU; Liger's where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from ftx.fast.kernels import triton_runs

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

CLOSE = 1e-2  # of the largest value: one rounding in bfloat16


def available() -> bool:
    """Whether Liger's kernels can be had."""
    return torch.cuda.is_available() and find_spec("liger_kernel") is not None


def take_over_norms(model: Module) -> int:
    """How many norms are computed by one kernel now: those that give the same by it."""
    if not triton_runs():
        return 0
    return sum(_take_norm(module) for module in model.modules() if type(module).__name__.endswith("RMSNorm"))


def _take_norm(norm: Any) -> bool:
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if eps is None or getattr(norm, "weight", None) is None or norm.weight.dim() != 1:
        return False
    if norm.weight.requires_grad and not available():
        return False
    own = norm.forward
    forward = _by_liger_norm(norm, eps) if norm.weight.requires_grad else _by_ours(norm, eps)
    x = torch.randn(4, norm.weight.shape[0], device=norm.weight.device, dtype=norm.weight.dtype)
    with torch.no_grad():
        expected, found = own(x), forward(x)
    if (expected - found).abs().max() > CLOSE * expected.abs().max():
        return False
    norm.forward = forward
    return True


def _by_ours(norm: Any, eps: float) -> Callable[[Tensor], Tensor]:
    """Without the weight's gradient, which nothing asks for."""
    from ftx.fast.norm_triton import Norm

    def forward(x: Tensor) -> Tensor:
        made: Tensor = Norm.apply(x, norm.weight, eps)
        return made

    return forward


def _by_liger_norm(norm: Any, eps: float) -> Callable[[Tensor], Tensor]:
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    def forward(x: Tensor) -> Tensor:
        made: Tensor = LigerRMSNormFunction.apply(x, norm.weight, eps, 0.0, "llama", False, None)
        return made

    return forward


def take_over_rope(model: Module) -> int:
    """How many of transformers' modules turn queries and keys by Liger's kernel now, where Llama's way is theirs."""
    if not available():
        return 0
    homes = {type(module).__module__ for module in model.modules() if hasattr(module, "q_proj")}
    return sum(_take_rope(sys.modules[home]) for home in homes if home.startswith("transformers.models."))


def _take_rope(home: Any) -> bool:
    own = getattr(home, "apply_rotary_pos_emb", None)
    if own is None or getattr(own, "by_liger", False) or not _turns_as_llama(own):
        return getattr(own, "by_liger", False)
    home.apply_rotary_pos_emb = _by_liger(own)
    return True


def _by_liger(own: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    from liger_kernel.ops.rope import LigerRopeFunction

    def turned(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
        # Where nothing is trained, as in a chat after it, what transformers has stays.
        if not q.is_cuda or not torch.is_grad_enabled() or rest or named or cos.shape[-1] != q.shape[-1]:
            return own(q, k, cos, sin, *rest, **named)
        made: tuple[Tensor, Tensor] = LigerRopeFunction.apply(q, k, cos, sin)
        return made

    turned.by_liger = True  # type: ignore[attr-defined]
    return turned


def _turns_as_llama(own: Callable[..., tuple[Tensor, Tensor]]) -> bool:
    """Whether the function gives what Llama's would: the first half of a head against the second."""
    q, k = torch.randn(1, 2, 3, 8), torch.randn(1, 1, 3, 8)
    angles = torch.randn(1, 3, 4).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    try:
        made = own(q, k, cos, sin)
    except (TypeError, RuntimeError, ValueError):  # another function under the same name
        return False
    for given, found in zip((q, k), made, strict=True):
        half = torch.cat((-given[..., 4:], given[..., :4]), -1)
        if not torch.allclose(found, given * cos.unsqueeze(1) + half * sin.unsqueeze(1), atol=1e-6):
            return False
    return True
