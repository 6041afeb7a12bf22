"""Which parts of a model are trained whole, and in which precision."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ftx import ModelFamily, TrainMethod

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def whole_parts(family: ModelFamily, vision: str, projector: str) -> list[str]:
    """Leaf names of the modules that are trained whole: those of the family's parts that are to be "full"."""
    wanted = {"vision": vision, "projector": projector}
    return [family.parts[part].rpartition(".")[2] for part in family.parts if wanted.get(part) == "full"]


def part_problems(method: TrainMethod, family: ModelFamily) -> Iterable[str]:
    """One sentence per part that the user wants trained or frozen and the family has not."""
    for part in ("vision", "projector"):
        if part in method.model_fields_set and part not in family.parts:
            yield f"method.{part}: family {family.name} has no such part; leave it out"


def in_training_precision(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its trained parameters in float32: updates are far smaller than a 16-bit weight's rounding."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model
