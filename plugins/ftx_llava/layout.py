"""The three layouts of a stored LLaVA against the names of transformers' own.

XTuner keeps the parts in folders of their own, which here stand before a tensor's name: `projector/`,
`visual_encoder/`, and none for the language model. Hugging Face's and haotian-liu's have prefixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftx import Layout

if TYPE_CHECKING:
    import torch

LANGUAGE, TOWER, PROJECTOR = "model.language_model.", "model.vision_tower.", "model.multi_modal_projector."
# what a CLIP or SigLIP tower is stored under; transformers holds it there or, since 5.23, one level higher
LEVEL = "vision_model."
LINEAR = {"0": "linear_1", "2": "linear_2"}  # the projector's layers by their numbers, the act between them

# layout -> (stored prefix, the part, what its own name begins with after the prefix is gone); the first that fits holds
PREFIXES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "xtuner": (("projector/model.", "projector", ""), ("visual_encoder/", "vision", ""), ("", "language", "")),
    "official": (
        ("model.vision_tower.vision_tower.", "vision", ""),
        ("model.mm_projector.", "projector", ""),
        ("", "language", ""),
    ),
    "huggingface": (
        ("language_model.", "language", ""),
        ("vision_tower.", "vision", ""),
        ("multi_modal_projector.", "projector", ""),
        # as transformers 5 holds them
        ("model.language_model.", "language", "model."),
        ("model.vision_tower.", "vision", ""),
        ("model.multi_modal_projector.", "projector", ""),
        ("", "language", ""),
    ),
}


@dataclass(frozen=True)
class LlavaLayout(Layout):
    """The mapping for one model.

    `language` is the language model's, to names in the whole; `level` is what the tower's native names have before
    `embeddings` and `encoder`.
    """

    prefixes: tuple[tuple[str, str, str], ...]
    language: Layout
    level: str

    def native_names(self, stored: str) -> list[str]:
        part, own = self._own(stored)
        if part == "vision":
            return [f"{TOWER}{self.level}{own.removeprefix(LEVEL)}"]
        if part == "projector":
            layer, dot, rest = own.partition(".")
            return [f"{PROJECTOR}{LINEAR.get(layer, layer)}{dot}{rest}"]
        return self.language.native_names(own)

    def split(self, stored: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        part, own = self._own(stored)
        if part == "language":
            return self.language.split(own, tensor)
        return {self.native_names(stored)[0]: tensor}

    def join(self, stored: str, native: Mapping[str, torch.Tensor]) -> torch.Tensor:
        part, own = self._own(stored)
        if part == "language":
            return self.language.join(own, native)
        return native[self.native_names(stored)[0]]

    def _own(self, stored: str) -> tuple[str, str]:
        """The part that holds the tensor, and its name there."""
        prefix, part, begin = next(entry for entry in self.prefixes if stored.startswith(entry[0]))
        return part, begin + stored.removeprefix(prefix)


# layout -> native prefix -> stored prefix; the language model as transformers names it
WRITTEN: dict[str, dict[str, str]] = {
    "xtuner": {
        LANGUAGE: "model.",
        TOWER: f"visual_encoder/{LEVEL}",
        f"{PROJECTOR}linear_1.": "projector/model.0.",
        f"{PROJECTOR}linear_2.": "projector/model.2.",
        "": "",
    },
    "official": {
        LANGUAGE: "model.",
        TOWER: f"model.vision_tower.vision_tower.{LEVEL}",
        f"{PROJECTOR}linear_1.": "model.mm_projector.0.",
        f"{PROJECTOR}linear_2.": "model.mm_projector.2.",
        "": "",
    },
    "huggingface": {
        LANGUAGE: "language_model.model.",
        TOWER: f"vision_tower.{LEVEL}",
        PROJECTOR: "multi_modal_projector.",
        "": "language_model.",
    },
}


def stored_name(native: str, layout: str) -> str:
    """What `layout` calls a native parameter."""
    prefix, written = next(entry for entry in WRITTEN[layout].items() if native.startswith(entry[0]))
    rest = native.removeprefix(prefix)
    return written + (rest.removeprefix(LEVEL) if prefix == TOWER else rest)
