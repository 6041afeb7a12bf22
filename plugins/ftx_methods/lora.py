"""LoRA and QLoRA on peft's modules and files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from ftx import ModelFacts, ModelFamily, TrainMethod, few_bits
from ftx.adapters import attached, injected, linear_leaves
from ftx.errors import RecipeError, did_you_mean
from ftx_methods.parts import in_training_precision, whole_parts

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
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank; default: twice the rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of adapter inputs dropped in training")
    targets: list[str] | None = Field(
        None, min_length=1, description="leaf names of tuned modules; default: the family's"
    )

    vision: Literal["frozen", "lora", "full"] = Field("frozen", description="how a vision tower is trained")
    projector: Literal["frozen", "full"] = Field("full", description="whether a projector is trained")

    @model_validator(mode="before")
    @classmethod
    def _alpha_follows_rank(cls, options: Any) -> Any:
        rank = options.get("rank") if isinstance(options, dict) else None
        return {"alpha": 2.0 * rank, **options} if isinstance(rank, int) and rank > 0 else options

    def prepare(self, model: PreTrainedModel, family: ModelFamily, resume: Path | None) -> PreTrainedModel:
        from peft import LoraConfig
        from transformers.pytorch_utils import Conv1D

        if resume is not None:
            return in_training_precision(attached(model, resume, trainable=True))
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self._modules(model, family),
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
            modules_to_save=whole_parts(family, self.vision, self.projector) or None,
            task_type="CAUSAL_LM",
        )
        try:
            return in_training_precision(injected(model, config))
        except ValueError as error:  # a target that is no linear layer, as a router is
            raise RecipeError(f"method.targets: {str(error).partition('. ')[0]}; name linear layers") from error

    def _modules(self, model: PreTrainedModel, family: ModelFamily) -> list[str] | str:
        """Names of the tuned modules: leaf names, or of a model in parts a pattern over whole names."""
        leaves = self.targets or family.lora_targets(model)
        if len(family.parts) == 1:
            return leaves
        prefix = family.parts["language"]
        patterns = [rf"{re.escape(prefix)}\..*\.({'|'.join(leaf for leaf in leaves if leaf != 'lm_head')})"]
        if "lm_head" in leaves:
            patterns.append("lm_head")
        if self.vision == "lora":
            tower = family.parts["vision"]
            patterns.append(rf"{re.escape(tower)}\..*\.({'|'.join(linear_leaves(model, tower))})")
        return "|".join(patterns)

    def save(self, model: PreTrainedModel, family: ModelFamily, base: Path, out: Path, *, final: bool) -> None:
        save_adapter(model, base, out)


class QLoRA(LoRA):
    """LoRA over a base held in few bits by bitsandbytes.

    4 are NormalFloat (Dettmers et al. 2023, arXiv 2305.14314), 8 are LLM.int8's (Dettmers et al. 2022, arXiv
    2208.07339).
    """

    name = "qlora"
    bits: Literal[4, 8] = Field(4, description="that hold a weight of the base: 4 (nf4) or 8 (LLM.int8)")
    double_quantization: bool = Field(True, description="of 4 bits: quantise the quantisation constants too")
    quantize_head: bool = Field(False, description="hold the head in these bits too, and the embedding in 8")

    def requirements(self) -> Iterable[str]:
        if find_spec("bitsandbytes") is None:
            yield "method: 'qlora' needs bitsandbytes; install it with: pip install 'ftx[qlora]'"

    def quantization(self, compute_dtype: torch.dtype, family: ModelFamily) -> Any:
        nested, head = self.double_quantization, self.quantize_head
        return few_bits.quantization(self.bits, compute_dtype, family, nested=nested, with_head=head)


def bits_problems(method: QLoRA, family: ModelFamily, base: Path) -> Iterable[str]:
    """One sentence per option that does nothing with the others, or with the model in `base`."""
    if method.bits == 8 and "double_quantization" in method.model_fields_set:
        yield "method.double_quantization: 8 bits have no constants to quantise; leave it out"
    if method.quantize_head and not _has_head(_native_names(family, base)):
        yield few_bits.TIED


def _native_names(family: ModelFamily, base: Path) -> set[str]:
    layout = family.layout(base)
    return {name for stored in family.checkpoint(base).tensors for name in layout.native_names(stored)}


def _has_head(names: Iterable[str]) -> bool:
    """Whether a model of these weights has a head apart from its embedding."""
    return any(name.startswith("lm_head.") for name in names)


def save_adapter(model: PreTrainedModel, base: Path, out: Path) -> None:
    """Write the adapter of `model`, a PeftModel, as peft does."""
    model.peft_config["default"].base_model_name_or_path = str(base.resolve())
    # peft would write a model card of its own with nothing but gaps to fill in, which takes as long as all the rest.
    model.create_or_update_model_card = lambda folder: None
    # "auto" would store a tuned head's whole weight beside its adapter.
    model.save_pretrained(str(out), save_embedding_layers=False)


# Whose linear layers are transformers' Conv1D, with weights [in, out]: bitsandbytes turns them.
TURNED = {"GPT2LMHeadModel", "OpenAIGPTLMHeadModel"}


def turned_problems(facts: ModelFacts) -> Iterable[str]:
    """A sentence for a model whose quantised weights could not be written back as they are stored."""
    if facts.architecture in TURNED:
        yield f"method: 'qlora' cannot give the weights of a {facts.architecture} back; use lora"


def target_problems(method: LoRA, family: ModelFamily, base: Path) -> Iterable[str]:
    """One sentence per target that the model in `base` does not have, by the leaf names of its weights."""
    weights = {n for n in _native_names(family, base) if n.endswith(".weight") and not n.endswith("norm.weight")}
    leaves = {name.split(".")[-2] for name in weights} - {"embed_tokens"}
    for target in method.targets or ():
        if target == "lm_head" and not _has_head(weights):
            yield "method.targets: lm_head is tied to the embedding in this model and cannot be tuned apart from it"
        elif target not in leaves:
            yield f"method.targets: '{target}' is no linear layer of this model; {did_you_mean(target, leaves)}"
