"""peft's adapters on a native model, where a target is the module it names and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ftx.errors import ModelError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel


def linear_leaves(model: PreTrainedModel, prefix: str) -> list[str]:
    """Leaf names of the linear layers below `prefix`."""
    import torch

    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if name.startswith(f"{prefix}.") and isinstance(module, torch.nn.Linear)
        }
    )


def injected(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """The model with new adapters, which change nothing yet."""
    from peft import get_peft_model

    with _targets_taken_literally(model):
        return get_peft_model(model, config)


def attached(model: PreTrainedModel, folder: Path, *, trainable: bool = False) -> PeftModel:
    """The model with the adapters of `folder`. Raises ModelError when they are for none of its layers."""
    from peft import PeftModel
    from peft.utils.error import NoMatchingPeftModuleError

    with _targets_taken_literally(model):
        try:
            return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
        except NoMatchingPeftModuleError:
            raise ModelError(
                f"the adapter {folder} tunes layers that the model has not under these names; if XTuner wrote it, "
                f"run: ftx xtuner adapter {folder} --out FOLDER"
            ) from None


@contextmanager
def _targets_taken_literally(model: PreTrainedModel) -> Iterator[None]:
    """Keeps peft from reading the names of experts as transformers 4 had them into the targets.

    In a mixture of experts it takes `gate_proj`, meant for the dense layers and the shared expert, for the fused
    experts, by the model's type.
    """
    kind = model.config.model_type
    model.config.model_type = ""
    try:
        yield
    finally:
        model.config.model_type = kind
