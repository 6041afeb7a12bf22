"""The native model class: transformers' InternVL with the official arithmetic where the two differ."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration

from ftx.vision import SeesPictures
from ftx_internlm2.modeling import InternLM2RotaryEmbedding


class InternVLChat(SeesPictures, InternVLForConditionalGeneration):  # type: ignore[misc]
    """InternVL2 of any size: InternViT, pixel shuffle, mlp1 and a language model.

    transformers' own class knows `ps_version` v2 alone, takes 1e-6 for every eps of the query and key norms, and has
    Llama's rope, which keeps state where it is dynamic.
    """

    def __init__(self, config: InternVLConfig) -> None:
        super().__init__(config)
        if config.vision_config.use_qk_norm:
            for layer in self.model.vision_tower.encoder.layer:
                layer.attention.q_norm.variance_epsilon = config.vision_config.layer_norm_eps
                layer.attention.k_norm.variance_epsilon = config.vision_config.layer_norm_eps
        if config.language == "internlm2":
            self.model.language_model.rotary_emb = InternLM2RotaryEmbedding(config.text_config)

    def vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the chosen layer of the tower gives for tiles: [tiles, 1 + patches, vision width]."""
        tower = self.model.vision_tower
        hidden: torch.Tensor = tower.embeddings(pixel_values.to(tower.embeddings.cls_token.dtype))
        layers = len(tower.encoder.layer) + 1 + self.config.vision_feature_layer
        for layer in tower.encoder.layer[:layers]:
            hidden = layer(hidden)
        # What lies behind the chosen layer changes nothing; but processes that train together wait for a gradient of
        # every trained parameter.
        idle = [p for layer in tower.encoder.layer[layers:] for p in layer.parameters() if p.requires_grad]
        if idle and torch.is_grad_enabled():
            hidden = hidden + torch.stack([p.sum() for p in idle]).sum() * 0
        return hidden

    def picture_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = self.vision_features(pixel_values)[:, 1:]
        shuffled = pixel_shuffle(patches, self.config.downsample_ratio, turned=self.config.ps_version == "v1")
        projected: torch.Tensor = self.model.multi_modal_projector(shuffled)
        return projected

    def blank_tile(self) -> torch.Tensor:
        side = self.config.tile
        tile: torch.Tensor = self.model.vision_tower.embeddings.cls_token.new_zeros(1, 3, side, side)
        return tile

    def seeing_parameters(self) -> Iterator[torch.nn.Parameter]:
        yield from self.model.vision_tower.parameters()
        yield from self.model.multi_modal_projector.parameters()


def pixel_shuffle(patches: torch.Tensor, ratio: float, *, turned: bool) -> torch.Tensor:
    """Neighbouring patches laid side by side: [tiles, n, width] to [tiles, n ratio^2, width / ratio^2].

    Patches are a square grid, row by row. `turned` is `ps_version` v1, whose places come column by column: the
    official code forgot to turn the grid back, and models were trained with it.
    """
    tiles, count, width = patches.shape
    side = int(count**0.5)
    short = int(side * ratio)
    grid = patches.reshape(tiles, side, short, int(width / ratio)).transpose(1, 2)
    grid = grid.reshape(tiles, short, short, int(width / ratio**2))
    if not turned:
        grid = grid.transpose(1, 2)
    return grid.reshape(tiles, short * short, -1)
