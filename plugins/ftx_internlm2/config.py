"""InternLM2's config.json, checked, and the tensors that the official layout stores for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from ftx import ModelError
from ftx.checkpoint_files import read_json


class _RopeScaling(BaseModel, strict=True):
    type: Literal["linear", "dynamic"]
    factor: float = Field(gt=0)


class Shape(BaseModel, strict=True):
    """The keys of config.json that shape the model; others are carried along unread."""

    vocab_size: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt | None = None
    max_position_embeddings: PositiveInt = 2048
    rms_norm_eps: PositiveFloat = 1e-6
    rope_theta: PositiveFloat = 10000
    rope_scaling: _RopeScaling | None = None
    hidden_act: str = "silu"
    bias: bool = True
    tie_word_embeddings: bool = False
    initializer_range: float = Field(0.02, ge=0)
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    @model_validator(mode="after")
    def _heads_divide(self) -> Shape:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads or self.num_attention_heads
        if self.hidden_size % heads or heads % kv_heads:
            raise ValueError(f"{heads} heads and {kv_heads} key/value heads do not divide width {self.hidden_size}")
        return self


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json, checked. Raises ModelError with one sentence per bad key."""
    config = read_json(folder / "config.json")
    if config.get("model_type") != "internlm2":
        raise ModelError(f"{folder} is a '{config.get('model_type')}' model, not internlm2; see `ftx plugins`")
    return checked(config, str(folder / "config.json"))


def checked(config: dict[str, Any], where: str) -> dict[str, Any]:
    """InternLM2's keys, checked; `where` names them in sentences. Raises ModelError with one sentence per bad key."""
    try:
        shape = Shape.model_validate(config)
    except ValidationError as error:
        raise ModelError(
            *(f"{where}: {'.'.join(map(str, e['loc'])) or 'shape'}: {e['msg']}" for e in error.errors())
        ) from None
    from transformers.activations import ACT2FN

    if shape.hidden_act not in ACT2FN:
        raise ModelError(f"{where}: hidden_act: '{shape.hidden_act}' is not known")
    return {"bias": shape.bias, **config}  # absent, it is true, other than Llama's


def known(config: dict[str, Any]) -> dict[str, Any]:
    """The keys that were checked. Others would reach transformers unchecked, and some of them change the model."""
    return {key: value for key, value in config.items() if key in Shape.model_fields}


def expected(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor the official layout stores for this config."""
    hidden, inner, vocab = (int(config[k]) for k in ("hidden_size", "intermediate_size", "vocab_size"))
    heads = int(config["num_attention_heads"])
    head_dim = hidden // heads
    qkv = (heads + 2 * int(config.get("num_key_value_heads") or heads)) * head_dim
    shapes = {"model.tok_embeddings.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings"):
        shapes["output.weight"] = (vocab, hidden)
    for i in range(int(config["num_hidden_layers"])):
        layer: dict[str, tuple[int, ...]] = {
            "attention.wqkv.weight": (qkv, hidden),
            "attention.wo.weight": (hidden, heads * head_dim),
            "feed_forward.w1.weight": (inner, hidden),
            "feed_forward.w3.weight": (inner, hidden),
            "feed_forward.w2.weight": (hidden, inner),
            "attention_norm.weight": (hidden,),
            "ffn_norm.weight": (hidden,),
        }
        if config.get("bias"):
            layer |= {"attention.wqkv.bias": (qkv,), "attention.wo.bias": (hidden,)}
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return shapes
