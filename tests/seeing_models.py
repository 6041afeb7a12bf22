"""Tiny vision-language models of transformers' own kinds, saved by transformers, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, TokenizersBackend

from conftest import TINY

LANGUAGE = {
    "vocab_size": 660,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
SIDE = {"height": 56, "width": 56}
CLIP = ("CLIPImageProcessorPil", {"size": {"shortest_edge": 56}, "crop_size": SIDE})
SIGLIP = ("SiglipImageProcessorPil", {"size": SIDE})
TILED = ("GotOcr2ImageProcessorPil", {"size": SIDE, "crop_to_patches": True, "max_patches": 4})
# kind -> model type, config, image processor, processor_config.json, named tokens
KINDS: dict[str, dict[str, Any]] = {
    "llava": {
        "config": {
            "text_config": {"model_type": "llama"},
            "vision_config": {"model_type": "clip_vision_model", "projection_dim": 16},
        },
        "images": CLIP,
        "tokens": {"image_token": "<image>"},
        "processor": {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    },
    "llava_siglip": {
        "type": "llava",
        "config": {
            "text_config": {"model_type": "qwen2", "tie_word_embeddings": True},
            "tie_word_embeddings": True,
            "vision_config": {"model_type": "siglip_vision_model"},
            "vision_feature_select_strategy": "full",
        },
        "images": SIGLIP,
        "tokens": {"image_token": "<image>"},
        "processor": {"patch_size": 14, "vision_feature_select_strategy": "full"},
    },
    "vipllava": {
        "config": {
            "text_config": {"model_type": "llama"},
            "vision_config": {"model_type": "clip_vision_model", "projection_dim": 16},
            "vision_feature_layers": [-2, -1, 1],
        },
        "images": CLIP,
        "tokens": {"image_token": "<image>"},
    },
    "internvl": {
        "config": {
            "text_config": {"model_type": "qwen2"},
            "vision_config": {"model_type": "internvl_vision", "image_size": [56, 56], "patch_size": [14, 14]},
        },
        "images": TILED,
        "tokens": {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        "image": "<IMG_CONTEXT>",
        "processor": {"image_seq_length": 4},
    },
    "got_ocr2": {
        "config": {
            "text_config": {"model_type": "qwen2"},
            "vision_config": {
                "output_channels": 16,
                "window_size": 2,
                "global_attn_indexes": [1],
                "mlp_dim": 64,
                "image_size": 64,
                "patch_size": 4,
            },
        },
        "images": ("GotOcr2ImageProcessorPil", {"size": {"height": 64, "width": 64}}),
        "tokens": {"begin": "<img>", "end": "</img>", "image_token": "<imgpad>"},
    },
    "aya_vision": {
        "config": {
            "text_config": {"model_type": "cohere2", "sliding_window": 64},
            "vision_config": {"model_type": "siglip_vision_model"},
            "downsample_factor": 2,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "alignment_intermediate_size": 64,
        },
        "images": TILED,
        "tokens": {
            "image_token": "<|IMG_PATCH|>",
            "a": "<|START_OF_IMG|>",
            "b": "<|END_OF_IMG|>",
            "c": "TILE_GLOBAL",
            "d": "TILE",
        },
        "processor": {"patch_size": 14, "img_size": 56, "downsample_factor": 2},
    },
    "gemma3": {
        "config": {
            "text_config": {"model_type": "gemma3_text", "sliding_window": 64},
            "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False},
            "mm_tokens_per_image": 4,
        },
        "images": ("Gemma3ImageProcessorPil", {"size": SIDE}),
        "tokens": {
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
        "processor": {"image_seq_length": 4},
    },
}


def make(name: str, folder: Path) -> Path:
    """A folder of this kind as transformers saves it: weights, tokenizer, image processor and processor's settings."""
    spec = KINDS[name]
    folder.mkdir(parents=True)
    tokens = spec["tokens"]
    tokenizer = TokenizersBackend.from_pretrained(str(TINY), extra_special_tokens=tokens)
    tokenizer.save_pretrained(folder)
    kind = spec.get("type", name)
    image = tokenizer.convert_tokens_to_ids(spec.get("image") or tokens["image_token"])
    model(kind, spec["config"], image).save_pretrained(folder)
    processor, options = spec["images"]
    getattr(transformers, processor)(**options).save_pretrained(folder)
    if "processor" in spec:
        (folder / "processor_config.json").write_text(json.dumps(spec["processor"]))
    return folder


def model(kind: str, config: dict[str, Any], image: int) -> Any:
    """A model with weights as random as a trained one's, norms and scales too."""
    values = {**config, "text_config": {**LANGUAGE, **config["text_config"]}}
    values["vision_config"] = {**TOWER, **config["vision_config"]}
    built = CONFIG_MAPPING[kind].from_dict({**values, "image_token_id": image, "model_type": kind})
    native = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(built)](built)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in native.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.mean() == 1))
    return native
