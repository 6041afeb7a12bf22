"""The projector alone: the first stage of a LLaVA."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ftx import ModelFamily, TrainMethod
from ftx.adapters import attached, injected
from ftx_methods.lora import save_adapter
from ftx_methods.parts import in_training_precision, whole_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Projector(TrainMethod):
    """Trains what carries pictures into the language model, and nothing else (Liu et al. 2023, arXiv 2304.08485).

    The result is an adapter that holds the projector whole; merge it before the second stage.
    """

    name = "projector"
    produces = "adapter"
    default_lr = 1e-3

    def prepare(self, model: PreTrainedModel, family: ModelFamily, resume: Path | None) -> PreTrainedModel:
        from peft import LoraConfig
        from peft.utils.constants import DUMMY_TARGET_MODULES

        if resume is not None:
            return in_training_precision(attached(model, resume, trainable=True))
        config = LoraConfig(
            target_modules=DUMMY_TARGET_MODULES,
            modules_to_save=whole_parts(family, "frozen", "full"),
            task_type="CAUSAL_LM",
        )
        return in_training_precision(injected(model, config))

    def save(self, model: PreTrainedModel, family: ModelFamily, base: Path, out: Path, *, final: bool) -> None:
        save_adapter(model, base, out)


def projector_problems(family: ModelFamily) -> Iterable[str]:
    """A sentence when the family has no projector."""
    if "projector" not in family.parts:
        yield f"method: 'projector' trains what carries pictures into a language model; {family.name} has no such part"
