"""Configs of a LLaVA's parts, checked, and as one of transformers' LlavaConfig."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, PositiveInt, ValidationError

from ftx import ModelError
from ftx.pretrained import config_of
from ftx_internlm2.config import checked as checked_internlm2
from ftx_internlm2.config import known as known_internlm2

if TYPE_CHECKING:
    from transformers import LlavaConfig, PreTrainedConfig

M = TypeVar("M", bound=BaseModel)
TOWERS = ("clip_vision_model", "siglip_vision_model")
WHOLE = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}  # with a text tower, which no LLaVA has
# What some language models do to their logits behind the head, which transformers' LLaVA does not.
AFTER_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling")
# Of no account to what a model computes; paths and classes of the machine it was made on among them.
UNREAD = ("_name_or_path", "architectures", "auto_map", "transformers_version")


@dataclass(frozen=True)
class Eyes:
    """What is taken from the tower and how it is projected.

    `layer` counts hidden states from the end; `select` "default" leaves the first feature out, which is CLIP's CLS,
    "full" takes all.
    """

    layer: int
    select: Literal["default", "full"]
    act: str = "gelu"
    bias: bool = True


class Projector(BaseModel, strict=True):
    """The projector's config.json in XTuner's layout."""

    model_type: Literal["projector"] = "projector"
    visual_hidden_size: PositiveInt
    llm_hidden_size: PositiveInt
    depth: Literal[2] = 2
    hidden_act: str = "gelu"
    bias: bool = True


class HuggingFace(BaseModel, strict=True):
    """The keys of Hugging Face's config.json that say how the parts belong together."""

    text_config: dict[str, Any]
    vision_config: dict[str, Any]
    vision_feature_layer: int = -2
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    projector_hidden_act: str = "gelu"
    multimodal_projector_bias: bool = True


class Official(BaseModel, strict=True):
    """The keys of haotian-liu's config.json that say how the parts belong together."""

    mm_projector_type: Literal["mlp2x_gelu"]
    mm_vision_select_layer: int = -2
    mm_vision_select_feature: Literal["patch", "cls_patch"] = "patch"
    mm_use_im_start_end: Literal[False] = False
    mm_vision_tower: str | None = None


def checked(model: type[M], values: Mapping[str, Any], where: str) -> M:
    """The keys that `model` knows. Raises ModelError with one sentence per bad key; `where` names them."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ModelError(*(f"{where}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from None


def tower_values(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config of a tower, taken out of that of a whole CLIP or SigLIP. Raises ModelError for another model."""
    kind = values.get("model_type")
    if kind in WHOLE:
        inner = values.get("vision_config")
        return {**(inner if isinstance(inner, dict) else {}), "model_type": WHOLE[kind]}
    if kind not in TOWERS:
        raise ModelError(f"{where}: '{kind}' is no CLIP or SigLIP vision tower")
    return dict(values)


def language_values(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config of a language model. Raises ModelError for what is none that a LLaVA can have."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = values.get("model_type")
    if "quantization_config" in values:
        raise ModelError(f"{where}: the language model is quantised; take the one it was made from")
    if kind == "internlm2":
        return checked_internlm2(dict(values), where)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(f"{where}: '{kind}' is neither internlm2 nor a language model that transformers has")
    if changed := [key for key in AFTER_THE_HEAD if values.get(key) not in (None, 1, 1.0)]:
        raise ModelError(f"{where}: {changed[0]} changes logits behind the head, as no LLaVA of transformers does")
    return dict(values)


def as_llama(values: Mapping[str, Any]) -> dict[str, Any]:
    """InternLM2's config as Llama's, which it is under other names; another language model's as it is."""
    if values.get("model_type") != "internlm2":
        return {key: value for key, value in values.items() if key not in UNREAD}
    own = known_internlm2(dict(values))
    bias = own.pop("bias")
    return {"model_type": "llama", **own, "attention_bias": bias}


def native_config(text: Mapping[str, Any], vision: Mapping[str, Any], eyes: Eyes, where: str) -> LlavaConfig:
    """transformers' config of the whole. Raises ModelError, naming `where`."""
    from transformers import LlavaConfig

    language, tower = (_native(values, where) for values in (as_llama(text), vision))
    if not -tower.num_hidden_layers - 1 <= eyes.layer <= -1:
        raise ModelError(f"{where}: layer {eyes.layer} is none of the vision tower's, counted from its end")
    config = LlavaConfig(
        vision_config=tower,
        text_config=language,
        vision_feature_layer=eyes.layer,
        vision_feature_select_strategy=eyes.select,
        projector_hidden_act=eyes.act,
        multimodal_projector_bias=eyes.bias,
        image_seq_length=places(tower, eyes),
        tie_word_embeddings=bool(language.tie_word_embeddings),
    )
    config.language = text["model_type"]
    return config


def places(tower: PreTrainedConfig, eyes: Eyes) -> int:
    """Features of a picture."""
    patches = (tower.image_size // tower.patch_size) ** 2
    # SigLIP has no CLS; "default" leaves the first feature out all the same
    return int(patches + (tower.model_type == TOWERS[0]) - (eyes.select == "default"))


def _native(values: Mapping[str, Any], where: str) -> PreTrainedConfig:
    read = {key: value for key, value in values.items() if key not in UNREAD}
    return config_of(read, f"{where}: the {values['model_type']} config")
