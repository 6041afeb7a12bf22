"""Which parts of a model are trained whole, and in which precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftx import ModelFamily

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def whole_parts(family: ModelFamily, vision: str, projector: str) -> list[str]:
    """Leaf names of the modules that are trained whole: those of the family's parts that are to be "full"."""
    wanted = {"vision": vision, "projector": projector}
    return [family.parts[part].rpartition(".")[2] for part in family.parts if wanted.get(part) == "full"]


def in_training_precision(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its trained parameters in float32: updates are far smaller than a 16-bit weight's rounding."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model
