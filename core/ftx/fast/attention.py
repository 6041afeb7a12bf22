"""Attention within samples laid end to end: no padding, no mask, whatever their lengths.

Samples are told apart by their bounds, int32 [samples + 1], which collate knows: on a GPU torch's own kernels for
rows of unequal length take them as they are; elsewhere, and for arithmetic that those lack, samples are taken one by
one. Rows of one length are an ordinary batch, for which the fastest kernels exist.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

NAME = "ftx_varlen"
PREFERRED = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Unserved(NotImplementedError):
    """A model asks for more than causal attention within bounds and windows."""


def register(attention: Callable[..., tuple[Tensor, None]] | None = None) -> None:
    """Make it, or `attention` under its name, known to transformers, which then makes no masks for it."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention or attend)


def served(model_class: type[PreTrainedModel], config: Any) -> bool:
    """Whether a model's attention can be taken over: it looks its function up, and asks for nothing beside windows."""
    if not (getattr(model_class, "_supports_attention_backend", False) and model_class._supports_sdpa):
        return False
    text = config.get_text_config()
    drops = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
    asked = ("attn_logit_softcapping", "attention_chunk_size", *drops)
    kinds = set(getattr(text, "layer_types", None) or ("full_attention",))
    return not any(getattr(text, name, None) for name in asked) and kinds <= {"full_attention", "sliding_attention"}


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each sample to itself: [rows, heads, tokens, width] to [rows, tokens, heads, width].

    Without bounds each row is a sample. Raises Unserved for what it does not know, rather than leave it out.
    """
    if attention_mask is not None:
        raise Unserved("attention with a mask; use train.attention=eager")
    for name in ("softcap", "s_aux", "position_bias", "dropout"):
        given = rest.get(name)
        if given is not None and not (name == "dropout" and given == 0.0):
            raise Unserved(f"attention with {name}; use train.attention=eager")
    if cu_seq_lens_q is None or max_length_q is None:
        rows, max_length_q = query.shape[0], query.shape[2]
        ends = torch.arange(rows + 1, dtype=torch.int32, device=query.device)
        cu_seq_lens_q = ends * max_length_q
    q, k, v = (t.transpose(1, 2).flatten(0, 1) for t in (query, key, value))
    window = sliding_window if sliding_window is not None and sliding_window < max_length_q else None
    out = _within(q, k, v, cu_seq_lens_q, max_length_q, scaling, window)
    return out.unflatten(0, (query.shape[0], query.shape[2])), None


def _within(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, scale: float | None, window: int | None
) -> Tensor:
    """[tokens, heads, width] each; to the same."""
    samples = bounds.shape[0] - 1
    if window is None and samples * longest == q.shape[0]:
        return _batch(q, k, v, samples, scale)
    if flashes(q, v):
        left = -1 if window is None else window - 1
        flash = torch.ops.aten._flash_attention_forward
        sizes = (bounds, bounds, longest, longest)
        made: Tensor = flash(
            q, k, v, *sizes, 0.0, True, False, scale=scale, window_size_left=left, window_size_right=0
        )[0]
        return made
    ends = bounds.tolist()
    parts = [_one(q[a:b], k[a:b], v[a:b], scale, window) for a, b in pairwise(ends)]
    return torch.cat(parts)


def flashes(q: Tensor, v: Tensor) -> bool:
    """Whether the kernel for unequal lengths takes them."""
    width = q.shape[-1]
    return q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and width == v.shape[-1] <= 256 and width % 8 == 0


def _batch(q: Tensor, k: Tensor, v: Tensor, samples: int, scale: float | None) -> Tensor:
    """Samples of one length."""
    if q.is_cuda and q.dtype == torch.float32 and q.shape[1] != k.shape[1]:
        # In 32 bits no kernel shares keys among queries but the one that keeps every score.
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    q, k, v = (t.unflatten(0, (samples, -1)).transpose(1, 2) for t in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    with sdpa_kernel(PREFERRED, set_priority=True) if q.is_cuda else nullcontext():
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
    return out.transpose(1, 2).flatten(0, 1)


def _one(q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None) -> Tensor:
    """One sample; beyond `window` tokens back it sees nothing."""
    if window is None or window >= q.shape[0]:
        return _batch(q, k, v, 1, scale)
    at = torch.arange(q.shape[0], device=q.device)
    back = at.unsqueeze(1) - at
    mask = (back >= 0) & (back < window)
    q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)
    return out.squeeze(0).transpose(0, 1)
