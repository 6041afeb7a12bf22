"""The native model class: transformers' LLaVA over rows that have a place for each feature."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from ftx.vision import SeesPictures
from ftx_internlm2.modeling import InternLM2RotaryEmbedding


class LlavaRows(SeesPictures, LlavaForConditionalGeneration):  # type: ignore[misc]
    """A CLIP or SigLIP tower, a two-layer projector and a language model."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__(config)
        if config.language == "internlm2":
            self.model.language_model.rotary_emb = InternLM2RotaryEmbedding(config.text_config)

    def vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the chosen layer of the tower gives: [tiles, patches, vision width], with CLIP one more for its CLS."""
        pixels = pixel_values.to(next(self.seeing_parameters()).dtype)
        out = self.model.vision_tower(pixel_values=pixels, output_hidden_states=True)
        chosen: torch.Tensor = out.hidden_states[self.config.vision_feature_layer]
        if not (torch.is_grad_enabled() and any(p.requires_grad for p in self.model.vision_tower.parameters())):
            return chosen
        # What lies behind the chosen layer changes nothing; but processes that train together wait for a gradient of
        # every trained parameter.
        last = out.last_hidden_state if out.pooler_output is None else out.pooler_output
        hung: torch.Tensor = chosen + last.sum() * 0
        return hung

    def picture_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        chosen = self.vision_features(pixel_values)
        if self.config.vision_feature_select_strategy == "default":
            chosen = chosen[:, 1:]
        projected: torch.Tensor = self.model.multi_modal_projector(chosen)
        return projected

    def blank_tile(self) -> torch.Tensor:
        side = self.config.vision_config.image_size
        tile: torch.Tensor = next(self.seeing_parameters()).new_zeros(1, 3, side, side)
        return tile

    def seeing_parameters(self) -> Iterator[torch.nn.Parameter]:
        yield from self.model.vision_tower.parameters()
        yield from self.model.multi_modal_projector.parameters()
