"""transformers' vision-language classes, given rows of embeddings in which features of pictures have their places."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from ftx import ModelError
from ftx.data.template import IMAGE_ID
from ftx.few_bits import as_in_training
from ftx.vision import SeesPictures

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class NativeSees(SeesPictures):
    """The pictures' way into a native class; `tile` is height and width in pixels of what its tower takes."""

    tile: tuple[int, int]

    def picture_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        taken = pixel_values.to(self._tower_parameter().dtype)
        found = self.get_image_features(pixel_values=taken, return_dict=True).pooler_output  # type: ignore[attr-defined]
        return found if isinstance(found, torch.Tensor) else torch.stack(list(found))

    def blank_tile(self) -> torch.Tensor:
        return self._tower_parameter().new_zeros(1, 3, *self.tile)

    def seeing_parameters(self) -> Iterator[torch.nn.Parameter]:
        yield from self.model.vision_tower.parameters()  # type: ignore[attr-defined]
        yield from self.model.multi_modal_projector.parameters()  # type: ignore[attr-defined]

    def _tower_parameter(self) -> torch.nn.Parameter:
        parameter: torch.nn.Parameter = next(self.model.vision_tower.parameters())  # type: ignore[attr-defined]
        return parameter


class NativeSeesBothWays(NativeSees):
    """For classes in which the places of a picture attend to each other both ways, and `token_type_ids` mark them."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **rest: Any,
    ) -> Any:
        masks: Any = attention_mask
        if input_ids is not None and pixel_values is not None:
            places = input_ids == IMAGE_ID
            rest["token_type_ids"] = places.long()
            if attention_mask is None and position_ids is not None:
                masks = self._packed_masks(places, position_ids)
        return super().forward(
            input_ids, pixel_values, inputs_embeds, attention_mask=masks, position_ids=position_ids, **rest
        )

    def _packed_masks(self, places: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        """Who attends to whom in packed rows, [rows, 1, tokens, tokens] for each kind of layer.

        transformers' own masks look pictures up by their positions in samples, as if all were in the first one.
        """
        config = self.config.get_text_config()  # type: ignore[attr-defined]
        pad = torch.nn.functional.pad
        sample = (pad(positions, (1, 0))[:, :-1] + 1 != positions).cumsum(-1)
        picture = (places & ~pad(places, (1, 0))[:, :-1]).cumsum(-1) * places
        back = torch.arange(places.shape[1], device=places.device)
        back = back[:, None] - back  # how far each token looks back
        together = (picture[:, :, None] == picture[:, None]) & places[:, None]
        seen = (sample[:, :, None] == sample[:, None]) & ((back >= 0) | together)
        masks = {"full_attention": seen, "sliding_attention": seen & (back < config.sliding_window)}
        return {kind: self._as_taken(mask[:, None]) for kind, mask in masks.items()}

    def _as_taken(self, mask: torch.Tensor) -> torch.Tensor:
        """The mask as the attention takes it: plain attention adds numbers, torch's own reads true and false."""
        if self.config.get_text_config()._attn_implementation != "eager":  # type: ignore[attr-defined]
            return mask
        dtype = self._tower_parameter().dtype
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


@cache
def seeing_class(native: Any, *, both_ways: bool) -> type[PreTrainedModel]:
    """A subclass of `native` that takes pictures as ftx lays them out.

    It bears the name and module of `native`, by which transformers finds its rules for the kind's checkpoints.
    """
    mixin = NativeSeesBothWays if both_ways else NativeSees
    return type(native.__name__, (mixin, native), {"__module__": native.__module__, "__doc__": native.__doc__})


@torch.inference_mode()
def prove_sight(model: Any, native: Any) -> None:
    """Show `model` a random tile in ftx's way and in its class `native`'s. Raises ModelError where they differ."""
    generator = torch.Generator().manual_seed(0)
    tile = model.blank_tile() + torch.randn(1, 3, *model.tile, generator=generator).to(model.blank_tile())
    places = model.picture_features(tile).shape[1]
    ids = torch.tensor([[0, *[IMAGE_ID] * places, 1]], device=tile.device)
    written = ids.masked_fill(ids == IMAGE_ID, model.config.image_token_id)
    with as_in_training(model):
        ours = model(input_ids=ids, pixel_values=tile).logits
        theirs = native.forward(model, input_ids=written, pixel_values=tile).logits
    if not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max())):
        raise ModelError(f"a '{model.config.model_type}' model makes more of a picture than features at their places")
