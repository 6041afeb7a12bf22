"""InternVL2's way from pixels to features, written out over the official checkpoint's tensors: what ours is held to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

Weights = Mapping[str, torch.Tensor]


def features(weights: Weights, config: Mapping[str, Any], pixels: torch.Tensor) -> torch.Tensor:
    """[tiles, places, language width] of pixels [tiles, 3, height, width], by config.json's keys."""
    vision = config["vision_config"]
    hidden = [_embedded(weights, pixels, vision)]
    for i in range(vision["num_hidden_layers"]):
        hidden.append(_layer(_below(weights, f"vision_model.encoder.layers.{i}."), hidden[-1], vision))
    patches = hidden[config["select_layer"]][:, 1:]
    return _projected(_below(weights, "mlp1."), _shuffled(patches, config))


def _below(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _embedded(weights: Weights, pixels: torch.Tensor, vision: Mapping[str, Any]) -> torch.Tensor:
    own = _below(weights, "vision_model.embeddings.")
    patches = F.conv2d(pixels, own["patch_embedding.weight"], own["patch_embedding.bias"], stride=vision["patch_size"])
    words = patches.flatten(2).transpose(1, 2)
    return torch.cat([own["class_embedding"].expand(len(words), 1, -1), words], 1) + own["position_embedding"]


def _norm(x: torch.Tensor, own: Weights, name: str, vision: Mapping[str, Any], kind: str | None = None) -> torch.Tensor:
    eps = vision["layer_norm_eps"]
    if (kind or vision["norm_type"]) == "layer_norm":
        return F.layer_norm(x, x.shape[-1:], own[f"{name}.weight"], own[f"{name}.bias"], eps)
    return own[f"{name}.weight"] * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def _layer(own: Weights, x: torch.Tensor, vision: Mapping[str, Any]) -> torch.Tensor:
    x = x + _attention(own, _norm(x, own, "norm1", vision), vision) * own["ls1"]
    inner = F.gelu(F.linear(_norm(x, own, "norm2", vision), own["mlp.fc1.weight"], own["mlp.fc1.bias"]))
    return x + F.linear(inner, own["mlp.fc2.weight"], own["mlp.fc2.bias"]) * own["ls2"]


def _attention(own: Weights, x: torch.Tensor, vision: Mapping[str, Any]) -> torch.Tensor:
    tiles, tokens, width = x.shape
    heads = vision["num_attention_heads"]
    q, k, v = F.linear(x, own["attn.qkv.weight"], own.get("attn.qkv.bias")).split(width, -1)
    if vision["qk_normalization"]:  # over all heads together
        q, k = _norm(q, own, "attn.q_norm", vision, "rms"), _norm(k, own, "attn.k_norm", vision, "rms")
    q, k, v = (t.view(tiles, tokens, heads, -1).transpose(1, 2) for t in (q, k, v))
    seen = (q * (width // heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
    return F.linear(seen.transpose(1, 2).reshape(tiles, tokens, width), own["attn.proj.weight"], own["attn.proj.bias"])


def _shuffled(patches: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    """For each place its block of patches: rows of the block first, then columns."""
    tiles, count, _ = patches.shape
    side, block = int(count**0.5), round(1 / config["downsample_ratio"])
    grid = patches.view(tiles, side, side, -1)
    places = range(side // block)
    order = [(r, c) for r in places for c in places]
    if config["ps_version"] == "v1":
        order = [(r, c) for c in places for r in places]
    found = [grid[:, r * block : (r + 1) * block, c * block : (c + 1) * block].flatten(1) for r, c in order]
    return torch.stack(found, 1)


def _projected(own: Weights, x: torch.Tensor) -> torch.Tensor:
    x = F.layer_norm(x, x.shape[-1:], own["0.weight"], own["0.bias"])
    return F.linear(F.gelu(F.linear(x, own["1.weight"], own["1.bias"])), own["3.weight"], own["3.bias"])
