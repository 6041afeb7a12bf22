"""A language model's layout within that of a model that sees, where transformers has it below a name of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftx.contracts import Layout

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Inside(Layout):
    """`own` is the layout of the language model alone; its head stands beside it in the whole."""

    own: Layout

    def native_names(self, stored: str) -> list[str]:
        return [_within(name) for name in self.own.native_names(stored)]

    def split(self, stored: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        return {_within(name): part for name, part in self.own.split(stored, tensor).items()}

    def join(self, stored: str, native: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self.own.join(stored, {name: native[_within(name)] for name in self.own.native_names(stored)})


def _within(name: str) -> str:
    return f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name
