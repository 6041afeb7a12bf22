"""What vision-language models share: features of pictures put where a row has places for them."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch

from ftx.data.template import IMAGE_ID

if TYPE_CHECKING:
    from collections.abc import Iterator


class SeesPictures:
    """Mixed in before one of transformers' vision-language classes; that class gets rows of embeddings alone.

    IMAGE_ID in `input_ids`, int64 [rows, tokens], stands for each feature of the pictures whose `pixel_values`, float
    [tiles, 3, height, width], belong to all rows in order. While parts that see are trained, a batch without pictures
    sends a blank tile through them and adds nothing of it: so every process has gradients of the same parameters,
    whatever rows it gets, and none waits for another.
    """

    @abstractmethod
    def picture_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Features of tiles in the language model's width: [tiles, places, width]."""

    @abstractmethod
    def blank_tile(self) -> torch.Tensor:
        """Zeros of one tile's shape, [1, 3, height, width], where the model is and in its dtype."""

    @abstractmethod
    def seeing_parameters(self) -> Iterator[torch.nn.Parameter]:
        """Parameters that only pictures pass through."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **rest: Any,
    ) -> Any:
        if inputs_embeds is None and input_ids is not None:
            inputs_embeds = self._embedded(input_ids, pixel_values)
        return super().forward(inputs_embeds=inputs_embeds, **rest)  # type: ignore[misc]

    def _embedded(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None) -> torch.Tensor:
        places = input_ids == IMAGE_ID
        words: torch.Tensor = self.get_input_embeddings()(input_ids.masked_fill(places, 0))  # type: ignore[attr-defined]
        if pixel_values is None:
            return words + self._nothing_seen(words)
        features = self.picture_features(pixel_values)
        count = features.shape[0] * features.shape[1]
        if int(places.sum()) != count:
            raise ValueError(f"{count} features of pictures for {int(places.sum())} places")
        return words.masked_scatter(places.unsqueeze(-1), features.to(words.dtype))

    def _nothing_seen(self, words: torch.Tensor) -> torch.Tensor:
        """Zero, which hangs on the trained parameters that see."""
        if not (torch.is_grad_enabled() and any(p.requires_grad for p in self.seeing_parameters())):
            return words.new_zeros(())
        return (self.picture_features(self.blank_tile()).sum() * 0).to(words.dtype)
