"""Full fine-tuning: every parameter, kept in float32 while it is trained; a vision tower by choice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ftx import ModelFamily, TrainMethod
from ftx.export.weights import export_weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Full(TrainMethod):
    """Trains all weights; the result is a whole model in the base's layout and dtype."""

    name = "full"
    produces = "model"
    default_lr = 2e-5
    vision: Literal["frozen", "full"] = Field("frozen", description="how a vision tower is trained")
    projector: Literal["frozen", "full"] = Field("full", description="whether a projector is trained")

    def storage_dtype(self, compute_dtype: torch.dtype) -> torch.dtype:
        # Updates are far smaller than a 16-bit weight's rounding: the weights themselves need float32.
        import torch

        return torch.float32

    def prepare(self, model: PreTrainedModel, family: ModelFamily, resume: Path | None) -> PreTrainedModel:
        model.requires_grad_(True)
        for part, choice in {"vision": self.vision, "projector": self.projector}.items():
            if part in family.parts and choice == "frozen":
                model.get_submodule(family.parts[part]).requires_grad_(False)
        return model

    def save(self, model: PreTrainedModel, family: ModelFamily, base: Path, out: Path, *, final: bool) -> None:
        export_weights(model.state_dict(), family, base, out, keep_dtype=not final)
        family.copy_companions(base, out)
