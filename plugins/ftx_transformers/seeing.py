"""The family of vision-language models whose class is transformers' own and sees by one tensor of pixels."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ftx import ImageProcessor, ModelError, ModelFamily
from ftx.adapters import linear_leaves
from ftx.checkpoint_files import read_json
from ftx.data.jinja import JinjaTemplate
from ftx_transformers.family import Transformers, native_config

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from ftx.data.template import Template

# What a forward may take: more than text, one tensor of pixels and how that is read by the config is more than ftx has.
TAKEN = {
    "self",
    "input_ids",
    "pixel_values",
    "attention_mask",
    "position_ids",
    "past_key_values",
    "inputs_embeds",
    "labels",
    "use_cache",
    "cache_position",
    "logits_to_keep",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "vision_feature_layer",
    "vision_feature_layers",
    "vision_feature_select_strategy",
    "image_sizes",
    "mm_encoder_outputs",
    "kwargs",
    "lm_kwargs",
}
# Where `token_type_ids` say no more than which tokens are a picture's; elsewhere they may divide prefix and answer.
BOTH_WAYS = ("gemma3",)
# Kinds whose rows are known to mean what they mean to transformers (tests/test_seeing_natives.py).
KNOWN = ("llava", "vipllava", "internvl", "got_ocr2", "aya_vision", "gemma3")


class TransformersVision(Transformers):
    """LLaVA, InternVL, Gemma 3, Aya Vision and other models that see, as transformers has them, in its own layout.

    A model is read when its class takes pictures as one tensor of tiles of one size and puts their features at their
    places; of kinds that ftx does not know, each is shown a tile as it is loaded. Template and stop tokens are those of
    the folder; what stands around a picture is the processor's.
    """

    name = "transformers_vision"
    varlen = False  # some of these see pictures both ways
    parts: ClassVar[Mapping[str, str]] = {
        "language": "model.language_model",
        "vision": "model.vision_tower",
        "projector": "model.multi_modal_projector",
    }
    max_patches: int | None = Field(
        None, ge=1, description="most tiles of a picture, its thumbnail not counted; default: the model's"
    )

    def for_folder(self, folder: Path) -> ModelFamily:
        return self

    def load(
        self, folder: Path, *, dtype: torch.dtype, device: str, attention: str, quantization: Any = None
    ) -> PreTrainedModel:
        from ftx_transformers.modeling import prove_sight
        from ftx_transformers.pictures import open_processor, tile_of

        config = self._config(folder)
        tile = tile_of(open_processor(folder, config), config)
        model = super().load(folder, dtype=dtype, device=device, attention=attention, quantization=quantization)
        model.tile = tile
        if config.model_type not in KNOWN:
            prove_sight(model, _native(config))
        return model

    def image_processor(self, folder: Path) -> ImageProcessor:
        from ftx_transformers.pictures import native_pictures

        return native_pictures(folder, self._skeleton(folder), self.tokenizer(folder), self.max_patches)

    def own_template(self, folder: Path) -> Template | None:
        """The one that older processors keep apart from the tokenizer."""
        kept = folder / "chat_template.json"
        tokenizer = self.tokenizer(folder) if kept.is_file() else None
        if tokenizer is None or tokenizer.chat_template:
            return None
        return JinjaTemplate(str(read_json(kept).get("chat_template")), tokenizer)

    def lora_targets(self, model: PreTrainedModel) -> list[str]:
        return linear_leaves(model, self.parts["language"])

    def _config(self, folder: Path) -> PreTrainedConfig:
        values = read_json(folder / "config.json")
        kind = str(values.get("model_type"))
        if kind not in _kinds():
            raise ModelError(f"{folder} is a '{kind}' model, which transformers has no vision-language model for")
        config = native_config(values, folder)
        if more := _wanting(_native(config), kind):
            raise ModelError(f"a '{kind}' model sees by more than one tensor of pixels, which ftx has not: {more}")
        return config

    def _class(self, config: PreTrainedConfig) -> type[PreTrainedModel]:
        from ftx_transformers.modeling import seeing_class

        return seeing_class(_native(config), both_ways=config.model_type in BOTH_WAYS)

    def _skeleton(self, folder: Path) -> PreTrainedModel:
        native = super()._skeleton(folder)
        held = {name for name, _ in native.named_modules()}
        if lacking := [name for name in self.parts.values() if name not in held]:
            raise ModelError(f"a '{native.config.model_type}' model has no {lacking[0]}, where ftx looks for its parts")
        return native


def sees(config: Mapping[str, Any]) -> bool:
    """Whether a model of this config's type is to be read as one that sees.

    What transformers has as a language model alone too is, where that is the same class and nothing hinders.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = str(config.get("model_type"))
    if kind not in _kinds() or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return kind in _kinds()
    if MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind] != _kinds()[kind]:
        return False
    from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return not _wanting(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[CONFIG_MAPPING[kind]], kind)


def _kinds() -> Mapping[str, str]:
    """Names of transformers' vision-language classes by model type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    names: Mapping[str, str] = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return names


def _native(config: PreTrainedConfig) -> Any:
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]


def _wanting(native: type[PreTrainedModel], kind: str) -> str:
    """Names of what the class needs beside text and one tensor of pixels, "" when that is all."""
    features = getattr(native, "get_image_features", None)
    if features is None:
        return "features of pictures that it gives out (get_image_features)"
    taken = TAKEN | {"token_type_ids"} if kind in BOTH_WAYS else TAKEN
    more = inspect.signature(native.forward).parameters.keys() - taken
    needed = [
        name
        for name, parameter in inspect.signature(features).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return ", ".join(sorted(more | (set(needed) - {"self", "pixel_values"})))
