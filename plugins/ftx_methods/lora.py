"""LoRA and QLoRA on peft's modules and files."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ftx import ModelFamily, TrainMethod
from ftx.adapters import attached, injected
from ftx.checkpoint_files import Checkpoint
from ftx.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class LoRA(TrainMethod):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on the decoder's linear layers.

    The head is not tuned. XTuner's default also put an adapter on InternLM2's head (its `output`): for the same, list
    the decoder's layers and lm_head in `targets`.
    """

    name = "lora"
    produces = "adapter"
    default_lr = 2e-4
    rank: int = Field(16, ge=1, description="inner size of the adapters")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of adapter inputs dropped in training")
    targets: list[str] | None = Field(
        None, min_length=1, description="leaf names of tuned modules; default: the family's"
    )

    def prepare(self, model: PreTrainedModel, family: ModelFamily, resume: Path | None) -> PreTrainedModel:
        from peft import LoraConfig

        if resume is not None:
            return attached(model, resume, trainable=True)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets or family.lora_targets(model),
            task_type="CAUSAL_LM",
        )
        try:
            return injected(model, config)
        except ValueError as error:  # a target that is no linear layer, as a router is
            raise RecipeError(f"method.targets: {str(error).partition('. ')[0]}; name linear layers") from error

    def save(self, model: PreTrainedModel, family: ModelFamily, base: Path, out: Path, *, final: bool) -> None:
        model.peft_config["default"].base_model_name_or_path = str(base.resolve())
        # "auto" would store a tuned head's whole weight beside its adapter.
        model.save_pretrained(str(out), save_embedding_layers=False)
        # peft writes a model card of its own with nothing but gaps to fill in.
        (out / "README.md").unlink(missing_ok=True)


class QLoRA(LoRA):
    """LoRA over a base held in 4-bit NormalFloat (Dettmers et al. 2023, arXiv 2305.14314) by bitsandbytes."""

    name = "qlora"
    double_quantization: bool = Field(True, description="quantise the quantisation constants too")

    def requirements(self) -> Iterable[str]:
        if find_spec("bitsandbytes") is None:
            yield "method: 'qlora' needs bitsandbytes; install it with: pip install 'ftx[qlora]'"

    def quantization(self, compute_dtype: torch.dtype) -> Any:
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.double_quantization,
            bnb_4bit_compute_dtype=compute_dtype,
        )


def target_problems(method: LoRA, family: ModelFamily, base: Path) -> Iterable[str]:
    """One sentence per target that the model in `base` does not have, by the leaf names of its weights."""
    layout = family.layout(base)
    weights = {
        name
        for stored in Checkpoint.of(base).tensors
        for name in layout.native_names(stored)
        if name.endswith(".weight") and not name.endswith("norm.weight")
    }
    leaves = {name.split(".")[-2] for name in weights} - {"embed_tokens"}
    for target in method.targets or ():
        if target == "lm_head" and not any(name.startswith("lm_head.") for name in weights):
            yield "method.targets: lm_head is tied to the embedding in this model and cannot be tuned apart from it"
        elif target not in leaves:
            yield f"method.targets: '{target}' is no linear layer of this model; {did_you_mean(target, leaves)}"
