"""InternVL2's config.json, checked, and as a config of transformers' native classes.

Defaults are those of the official configuration_internvl_chat.py and configuration_intern_vit.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError, model_validator

from ftx import ModelError
from ftx.checkpoint_files import read_json
from ftx.pretrained import config_of
from ftx_internlm2.config import checked as checked_internlm2
from ftx_internlm2.config import known as known_internlm2

if TYPE_CHECKING:
    from transformers import InternVLConfig, PreTrainedConfig

# architecture of the language model -> the kind of transformers' config for it
LANGUAGE_MODELS = {
    "InternLM2ForCausalLM": "internlm2",
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Phi3ForCausalLM": "phi3",
}


class Vision(BaseModel, strict=True):
    """The keys of vision_config that shape an InternViT."""

    hidden_size: PositiveInt = 3200
    intermediate_size: PositiveInt = 12800
    num_hidden_layers: PositiveInt = 48
    num_attention_heads: PositiveInt = 25
    num_channels: Literal[3] = 3
    image_size: PositiveInt = 224
    patch_size: PositiveInt = 14
    qkv_bias: bool = False
    qk_normalization: bool = True
    norm_type: Literal["rms_norm", "layer_norm"] = "rms_norm"
    layer_norm_eps: PositiveFloat = 1e-6
    hidden_act: str = "gelu"
    initializer_range: NonNegativeFloat = 0.02

    @model_validator(mode="after")
    def _sizes_divide(self) -> Vision:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.num_attention_heads} heads do not divide width {self.hidden_size}")
        if self.image_size % self.patch_size:
            raise ValueError(f"patches of {self.patch_size} pixels do not divide an image of {self.image_size}")
        return self


class Chat(BaseModel, strict=True):
    """The keys of config.json that shape an InternVL2; others are carried along unread."""

    vision_config: Vision
    llm_config: dict[str, Any]
    downsample_ratio: float = Field(0.5, gt=0, le=1)
    ps_version: Literal["v1", "v2"] = "v1"
    select_layer: int = -1
    force_image_size: PositiveInt | None = None
    dynamic_image_size: bool = False
    use_thumbnail: bool = False
    pad2square: bool = False
    min_dynamic_patch: PositiveInt = 1
    max_dynamic_patch: PositiveInt = 6
    template: str | None = None

    @property
    def tile(self) -> int:
        """Pixels of a tile's side."""
        return self.force_image_size or self.vision_config.image_size

    @property
    def places(self) -> int:
        """Features of a tile."""
        return int((self.tile // self.vision_config.patch_size) ** 2 * self.downsample_ratio**2)

    @property
    def language(self) -> str:
        """The kind of the language model."""
        return LANGUAGE_MODELS[self.llm_config["architectures"][0]]

    @model_validator(mode="after")
    def _parts_fit(self) -> Chat:
        side = self.tile / self.vision_config.patch_size
        if side != int(side) or (side * self.downsample_ratio) % 1:
            raise ValueError(f"tiles of {self.tile} pixels make no whole number of features")
        if not -self.vision_config.num_hidden_layers <= self.select_layer <= -1:
            raise ValueError(f"select_layer {self.select_layer} is no layer of the vision tower, counted from its end")
        named = self.llm_config.get("architectures")
        if not isinstance(named, list) or not named or named[0] not in LANGUAGE_MODELS:
            raise ValueError(f"llm_config: architectures {named} is none of {', '.join(LANGUAGE_MODELS)}")
        return self


def read_config(folder: Path) -> Chat:
    """The folder's config.json. Raises ModelError with one sentence per bad key."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind != "internvl_chat":
        blind = "a language model that sees no pictures" if "vision_config" not in config else "not the official layout"
        raise ModelError(
            f"{folder} is a '{kind}' model, {blind}, and no InternVL2; leave --plugin out to have it found"
        )
    where = folder / "config.json"
    try:
        chat = Chat.model_validate(config)
    except ValidationError as error:
        raise ModelError(
            *(f"{where}: {'.'.join(map(str, e['loc'])) or 'shape'}: {e['msg']}" for e in error.errors())
        ) from None
    if chat.language == "internlm2":
        checked_internlm2(chat.llm_config, f"{where}: llm_config")
    return chat


def native_config(chat: Chat, where: str) -> InternVLConfig:
    """transformers' config of the same model. Raises ModelError, naming `where`."""
    from transformers import InternVLConfig, InternVLVisionConfig

    vision = chat.vision_config
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_hidden_layers=vision.num_hidden_layers,
            num_attention_heads=vision.num_attention_heads,
            attention_bias=vision.qkv_bias,
            use_qk_norm=vision.qk_normalization,
            norm_type=vision.norm_type,
            layer_norm_eps=vision.layer_norm_eps,
            hidden_act=vision.hidden_act,
            initializer_range=vision.initializer_range,
            image_size=[vision.image_size] * 2,
            patch_size=[vision.patch_size] * 2,
        ),
        text_config=_text_config(chat, where),
        downsample_ratio=chat.downsample_ratio,
        vision_feature_layer=chat.select_layer,
        image_seq_length=chat.places,
        tie_word_embeddings=bool(chat.llm_config.get("tie_word_embeddings", False)),
    )
    config.tile = chat.tile
    config.ps_version = chat.ps_version
    config.language = chat.language
    return config


def _text_config(chat: Chat, where: str) -> PreTrainedConfig:
    from transformers import LlamaConfig

    if chat.language == "internlm2":
        values = known_internlm2(checked_internlm2(chat.llm_config, where))
        bias = values.pop("bias")
        return LlamaConfig(**values, attention_bias=bias)
    values = {key: value for key, value in chat.llm_config.items() if key not in ("auto_map", "quantization_config")}
    return config_of({**values, "model_type": chat.language}, f"{where}: llm_config")
