"""Tiny InternVL2 folders of every style, in the official layout, with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from conftest import FIXTURES

SOURCE = FIXTURES / "golden" / "internvl2_300m_style"
STYLES: dict[str, dict[str, Any]] = {
    "300m": {},
    "6b": {
        "vision_config": {
            "norm_type": "rms_norm",
            "qk_normalization": True,
            "qkv_bias": False,
            "layer_norm_eps": 1e-5,
        }
    },
    "v1": {"ps_version": "v1", "select_layer": -2},
    "qwen2": {"llm_config": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rope_scaling": None}},
    "llama": {"llm_config": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_scaling": None}},
}


def config_of(style: str) -> dict[str, Any]:
    """config.json of the recorded model, changed to the style."""
    config: dict[str, Any] = json.loads((SOURCE / "config.json").read_text())
    for key, value in STYLES[style].items():
        config[key] = {**config[key], **value} if isinstance(value, Mapping) else value
    return config


def make(style: str, folder: Path) -> Path:
    """A folder of this style, with the recorded model's tokenizer."""
    from ftx_internvl.config import Chat, native_config
    from ftx_internvl.modeling import InternVLChat

    folder.mkdir(parents=True)
    for path in SOURCE.iterdir():
        if not path.name.startswith(("golden", "image", "model.", "config.")):
            shutil.copyfile(path, folder / path.name)
    config = config_of(style)
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    native = InternVLChat(native_config(Chat.model_validate(config), "here")).state_dict()
    # As random as a trained model's, norms and scales too, so that nothing hides behind ones and zeros.
    native = {name: torch.randn_like(tensor) * 0.2 + (tensor.mean() == 1) for name, tensor in native.items()}
    save_file(official(native, config), folder / "model.safetensors", {"format": "pt"})
    return folder


def official(native: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The parameters under the official names, found by trying every name that such a model stores."""
    from ftx_internvl.config import Chat
    from ftx_internvl.family import layout_for

    layout = layout_for(Chat.model_validate(config))
    tensors = {name: layout.join(name, native).contiguous() for name in stored_names(config)}
    left = set(native) - {part for name in tensors for part in layout.native_names(name)}
    assert not left, left
    return tensors


def stored_names(config: Mapping[str, Any]) -> list[str]:
    vision, language = config["vision_config"], config["llm_config"]
    names = [f"vision_model.embeddings.{n}" for n in ("class_embedding", "position_embedding")]
    names += [f"vision_model.embeddings.patch_embedding.{n}" for n in ("weight", "bias")]
    names += [f"mlp1.{i}.{n}" for i in (0, 1, 3) for n in ("weight", "bias")]
    layer = ["ls1", "ls2", "attn.qkv.weight", "norm1.weight", "norm2.weight"]
    layer += [f"{m}.{n}" for m in ("attn.proj", "mlp.fc1", "mlp.fc2") for n in ("weight", "bias")]
    layer += ["attn.qkv.bias"] if vision["qkv_bias"] else []
    layer += ["norm1.bias", "norm2.bias"] if vision["norm_type"] == "layer_norm" else []
    layer += ["attn.q_norm.weight", "attn.k_norm.weight"] if vision["qk_normalization"] else []
    names += [f"vision_model.encoder.layers.{i}.{n}" for i in range(vision["num_hidden_layers"]) for n in layer]
    return [*names, *(f"language_model.{name}" for name in language_names(language))]


def language_names(language: Mapping[str, Any]) -> list[str]:
    layers = range(language["num_hidden_layers"])
    if language["model_type"] == "internlm2":
        own = ["attention.wqkv", "attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"]
        own += ["attention_norm", "ffn_norm"]
        ends = ["model.tok_embeddings.weight", "model.norm.weight", "output.weight"]
        return [*ends, *(f"model.layers.{i}.{n}.weight" for i in layers for n in own)]
    own = [f"self_attn.{n}_proj.weight" for n in "qkvo"] + [f"mlp.{n}_proj.weight" for n in ("gate", "up", "down")]
    own += ["input_layernorm.weight", "post_attention_layernorm.weight"]
    own += [f"self_attn.{n}_proj.bias" for n in "qkv"] if language["model_type"] == "qwen2" else []
    ends = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    return [*ends, *(f"model.layers.{i}.{n}" for i in layers for n in own)]
