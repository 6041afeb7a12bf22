"""InternLM2's official checkpoint layout against the names of transformers' Llama.

InternLM2 is Llama with other names and one fused tensor: `attention.wqkv` holds, for each key/value head,
its group of query heads, then the key head, then the value head, each `head_dim` rows (the rearrangement
"(kv gs d) z" of modeling_internlm2.py). With `bias`, wqkv and wo carry one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftx import Layout

if TYPE_CHECKING:
    import torch

# official fragment -> native fragment; each occurs once in a tensor's name
RENAMED = {
    "tok_embeddings": "embed_tokens",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
HEAD = ("output", "lm_head")
FUSED = "attention.wqkv"
PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def split_wqkv(wqkv: torch.Tensor, kv_heads: int, groups: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k, v from wqkv: shape [kv_heads * (groups + 2) * head_dim, ...]; `groups` query heads a kv head."""
    rest = wqkv.shape[1:]
    grouped = wqkv.reshape(kv_heads, groups + 2, -1, *rest)
    q = grouped[:, :groups].reshape(-1, *rest)
    k = grouped[:, groups].reshape(-1, *rest)
    v = grouped[:, groups + 1].reshape(-1, *rest)
    return q, k, v


def join_wqkv(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """The exact inverse of `split_wqkv`, for weights [rows, in] and biases [rows]."""
    import torch

    rest = k.shape[1:]
    head_dim = k.shape[0] // kv_heads
    grouped = [t.reshape(kv_heads, -1, head_dim, *rest) for t in (q, k, v)]
    return torch.cat(grouped, dim=1).reshape(-1, *rest)


@dataclass(frozen=True)
class InternLM2Layout(Layout):
    """The mapping for one model: its number of key/value heads and of query heads for each of them."""

    kv_heads: int
    groups: int

    def native_names(self, stored: str) -> list[str]:
        if FUSED in stored:
            return [stored.replace(FUSED, part) for part in PARTS]
        if stored.startswith(HEAD[0] + "."):
            return [stored.replace(HEAD[0], HEAD[1], 1)]
        return [re.sub("|".join(map(re.escape, RENAMED)), lambda m: RENAMED[m[0]], stored, count=1)]

    def split(self, stored: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        names = self.native_names(stored)
        if len(names) == 1:
            return {names[0]: tensor}
        return dict(zip(names, split_wqkv(tensor, self.kv_heads, self.groups), strict=True))

    def join(self, stored: str, native: Mapping[str, torch.Tensor]) -> torch.Tensor:
        parts = [native[name] for name in self.native_names(stored)]
        if len(parts) == 1:
            return parts[0]
        return join_wqkv(parts[0], parts[1], parts[2], self.kv_heads)


def layout_of(config: Mapping[str, Any]) -> InternLM2Layout:
    """The mapping for a model of this config."""
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    return InternLM2Layout(kv_heads, heads // kv_heads)
