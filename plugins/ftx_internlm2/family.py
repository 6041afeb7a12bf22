"""The InternLM2 family: 1.8B, 7B, 20B, base and chat, and whatever else has its layout."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from ftx import Layout, ModelError, ModelFacts, ModelFamily
from ftx.checkpoint_files import Checkpoint, read_json
from ftx.data.tokens import Tokenizer
from ftx.pretrained import load_tokenizer, loaded
from ftx_internlm2.layout import InternLM2Layout

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class InternLM2(ModelFamily):
    """InternLM2 in the official layout (safetensors or .bin), on transformers' Llama.

    Ropes: default, linear and dynamic; MHA, GQA and MQA; with or without bias. `auto_map` is ignored.
    """

    name = "internlm2"

    def inspect(self, folder: Path) -> ModelFacts:
        config = _config(folder)
        checkpoint = Checkpoint.of(folder)
        _compare(_expected(config), checkpoint, folder)
        dtypes = {info.dtype for info in checkpoint.tensors.values()}
        notes = ("auto_map in config.json is ignored: ftx runs no code from a model folder",)
        return ModelFacts(
            architecture="InternLM2ForCausalLM",
            parameters=sum(math.prod(info.shape) for info in checkpoint.tensors.values()),
            dtype="+".join(sorted(dtypes)),
            size_bytes=checkpoint.size(),
            max_positions=int(config.get("max_position_embeddings", 2048)),
            vocab_size=int(config["vocab_size"]),
            notes=notes if "auto_map" in config else (),
        )

    def load(
        self, folder: Path, *, dtype: torch.dtype, device: str, attention: str, quantization: Any = None
    ) -> PreTrainedModel:
        from ftx_internlm2.modeling import InternLM2Config, InternLM2ForCausalLM

        config = InternLM2Config(**_known(_config(folder)))
        return loaded(InternLM2ForCausalLM, folder, config, dtype, device, attention, quantization)

    def tokenizer(self, folder: Path) -> Tokenizer:
        return load_tokenizer(folder, add_bos_token=True)

    def layout(self, folder: Path) -> Layout:
        config = _config(folder)
        heads = int(config["num_attention_heads"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        return InternLM2Layout(kv_heads, heads // kv_heads)

    def lora_targets(self, model: PreTrainedModel) -> list[str]:
        return ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

    def default_template(self) -> str:
        return "internlm2_chat"


class _RopeScaling(BaseModel, strict=True):
    type: Literal["linear", "dynamic"]
    factor: float = Field(gt=0)


class _Config(BaseModel, strict=True):
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
    def _heads_divide(self) -> _Config:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads or self.num_attention_heads
        if self.hidden_size % heads or heads % kv_heads:
            raise ValueError(f"{heads} heads and {kv_heads} key/value heads do not divide width {self.hidden_size}")
        return self


def _config(folder: Path) -> dict[str, Any]:
    """config.json, checked. Raises ModelError with one sentence per bad key."""
    config = read_json(folder / "config.json")
    if config.get("model_type") != "internlm2":
        raise ModelError(f"{folder} is a '{config.get('model_type')}' model, not internlm2; see `ftx plugins`")
    try:
        checked = _Config.model_validate(config)
    except ValidationError as error:
        where = folder / "config.json"
        raise ModelError(
            *(f"{where}: {'.'.join(map(str, e['loc'])) or 'shape'}: {e['msg']}" for e in error.errors())
        ) from None
    from transformers.activations import ACT2FN

    if checked.hidden_act not in ACT2FN:
        raise ModelError(f"{folder / 'config.json'}: hidden_act: '{checked.hidden_act}' is not known")
    return {"bias": checked.bias, **config}  # absent, it is true, other than Llama's


def _known(config: dict[str, Any]) -> dict[str, Any]:
    """The keys that were checked. Others would reach transformers unchecked, and some of them change the model."""
    return {key: value for key, value in config.items() if key in _Config.model_fields}


def _expected(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
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


def _compare(expected: dict[str, tuple[int, ...]], checkpoint: Checkpoint, folder: Path) -> None:
    stored = checkpoint.tensors
    missing = sorted(expected.keys() - stored.keys())
    # Old exports carry the rotary buffer, which is computed and holds nothing learnt.
    extra = sorted(n for n in stored.keys() - expected.keys() if not n.endswith("rotary_emb.inv_freq"))
    problems = []
    if missing:
        problems.append(f"{folder} lacks {len(missing)} weights of an InternLM2, such as {missing[0]}")
    if extra:
        problems.append(f"{folder} holds {len(extra)} weights that no InternLM2 has, such as {extra[0]}")
    for name, shape in expected.items():
        if name in stored and stored[name].shape != shape:
            problems.append(f"{name} has shape {stored[name].shape}, but config.json makes it {shape}")
            break
    if problems:
        raise ModelError(*problems)
