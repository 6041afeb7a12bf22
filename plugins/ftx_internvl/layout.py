"""InternVL2's official checkpoint layout against the names of transformers' InternVL.

The language model keeps its own layout below `language_model.`; the vision tower's `attn.qkv` holds queries, keys and
values one after the other (modeling_intern_vit.py, modeling_internvl_chat.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftx import Layout

if TYPE_CHECKING:
    import torch

LANGUAGE = "language_model."
PROJECTOR = {
    "mlp1.0.": "model.multi_modal_projector.layer_norm.",
    "mlp1.1.": "model.multi_modal_projector.linear_1.",
    "mlp1.3.": "model.multi_modal_projector.linear_2.",
}
# official fragment -> native fragment of the vision tower; several may occur in a name
RENAMED = {
    "vision_model.": "model.vision_tower.",
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.position_embedding": "embeddings.position_embeddings",
    "embeddings.patch_embedding.": "embeddings.patch_embeddings.projection.",
    "encoder.layers.": "encoder.layer.",
    ".ls1": ".lambda_1",
    ".ls2": ".lambda_2",
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".attn.proj.": ".attention.projection_layer.",
    ".attn.q_norm.": ".attention.q_norm.",
    ".attn.k_norm.": ".attention.k_norm.",
}
FRAGMENT = re.compile("|".join(map(re.escape, RENAMED)))
FUSED = ".attn.qkv."
PARTS = (".attention.q_proj.", ".attention.k_proj.", ".attention.v_proj.")


@dataclass(frozen=True)
class InternVLLayout(Layout):
    """The mapping for one model; `language` is its language model's, to names in the whole."""

    language: Layout

    def native_names(self, stored: str) -> list[str]:
        if stored.startswith(LANGUAGE):
            return self.language.native_names(stored.removeprefix(LANGUAGE))
        for official, native in PROJECTOR.items():
            if stored.startswith(official):
                return [native + stored.removeprefix(official)]
        name = FRAGMENT.sub(lambda found: RENAMED[found[0]], stored)
        return [name.replace(FUSED, part) for part in PARTS] if FUSED in name else [name]

    def split(self, stored: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        if stored.startswith(LANGUAGE):
            return self.language.split(stored.removeprefix(LANGUAGE), tensor)
        names = self.native_names(stored)
        return dict(zip(names, tensor.chunk(len(names)), strict=True))

    def join(self, stored: str, native: Mapping[str, torch.Tensor]) -> torch.Tensor:
        import torch

        if stored.startswith(LANGUAGE):
            return self.language.join(stored.removeprefix(LANGUAGE), native)
        names = self.native_names(stored)
        return native[names[0]] if len(names) == 1 else torch.cat([native[name] for name in names])
