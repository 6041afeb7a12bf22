"""The layout of models that are stored as transformers holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ftx.contracts import Layout

if TYPE_CHECKING:
    import torch


class SameLayout(Layout):
    """Tensors are stored as the model holds them, under the same names."""

    def native_names(self, stored: str) -> list[str]:
        return [stored]

    def split(self, stored: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        return {stored: tensor}

    def join(self, stored: str, native: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return native[stored]
