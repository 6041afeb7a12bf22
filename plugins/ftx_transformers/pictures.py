"""Pictures by transformers' own processors: the tokens they take in a row, and the pixels that fill them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx import ImageProcessor, ModelError
from ftx.checkpoint_files import read_json
from ftx.data.template import IMAGE_ID

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image
    from transformers import PreTrainedConfig, PreTrainedModel

    from ftx.data.tokens import Tokenizer

# Tokens before and after a picture, for kinds whose processor cannot be asked: it adds nothing to the places (llava),
# needs torchvision (internvl) or writes a whole prompt (got_ocr2).
AROUND = {
    "llava": (),
    "vipllava": (),
    "internvl": ("<img>", "</img>"),
    "got_ocr2": ("<img>", "</img>"),
}
# Sizes in pixels that show how a processor cuts pictures: square, wide, tall, small
PROBES = ((400, 400), (1500, 500), (300, 1200), (30, 20))
GIVEN = {"pixel_values", "num_patches", "num_crops"}  # the numbers of tiles are known before


@dataclass(frozen=True)
class NativePictures(ImageProcessor):
    """A native model's eyes.

    `processor` is transformers' image processor, `options` what its calls are given; `places`, features of a tile. What
    stands in a row depends on the number of tiles alone: `begin` and `end` around the places, or all that `asked`, the
    model's processor, writes for `image_token`.
    """

    processor: Any
    options: Mapping[str, Any]
    places: int
    image_token: int
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    asked: Any = None
    _known: dict[int, tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)

    def key(self) -> Mapping[str, Any]:
        read = json.loads(self.processor.to_json_string())
        asked = json.loads(self.asked.to_json_string()) if self.asked else None
        return {"processor": read, "options": dict(self.options), "places": self.places, "asked": asked} | {
            "around": [self.begin, self.end]
        }

    def lay_out(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        return [self._tokens(size) for size in sizes]

    def tiles(self, size: tuple[int, int]) -> int:
        """Tiles of a picture of this width and height."""
        count = getattr(self.processor, "get_number_of_image_patches", None)
        return int(count(size[1], size[0], dict(self.options))) if count else 1

    def pixels(self, rows: Sequence[Sequence[Image.Image]]) -> torch.Tensor:
        import torch

        return torch.from_numpy(_cut(self.processor, [picture for row in rows for picture in row], self.options))

    def _tokens(self, size: tuple[int, int]) -> tuple[int, ...]:
        tiles = self.tiles(size)
        if tiles not in self._known:
            self._known[tiles] = self._asked(size, tiles) if self.asked else self._plain(tiles)
        return self._known[tiles]

    def _plain(self, tiles: int) -> tuple[int, ...]:
        return (*self.begin, *[IMAGE_ID] * (self.places * tiles), *self.end)

    def _asked(self, size: tuple[int, int], tiles: int) -> tuple[int, ...]:
        """What the processor writes for a blank picture. Raises ModelError when its places are not the features."""
        from PIL import Image

        mark = getattr(self.asked, "image_placeholder_token", None) or self.asked.image_token
        written = self.asked(images=[Image.new("RGB", size)], text=[mark], add_special_tokens=False, **self.options)
        ids = tuple(IMAGE_ID if i == self.image_token else int(i) for i in written["input_ids"][0])
        if ids.count(IMAGE_ID) != tiles * self.places:
            raise ModelError(
                f"the processor gives a picture of {tiles} tiles {ids.count(IMAGE_ID)} places, the model "
                f"{tiles * self.places} features: processor_config.json and config.json are of different models"
            )
        return ids


def open_processor(folder: Path, config: PreTrainedConfig) -> Any:
    """The folder's image processor, on Pillow and without remote code. Raises ModelError."""
    # transformers 5.17 gives it out at the top only where there is torchvision.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        return AutoImageProcessor.from_pretrained(
            str(folder), config=config, backend="pil", local_files_only=True, trust_remote_code=False
        )
    # Each processor checks its values in its own way.
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise ModelError(
            f"{folder} has no image processor that can be read (preprocessor_config.json): {_said(error)}"
        ) from None


def call_options(processor: Any, config: PreTrainedConfig) -> dict[str, Any]:
    """What the model's whole processor sets in its image processor, whatever the folder's own settings."""
    found = _processor_class(config)
    own = getattr(found, "images_kwargs", None)
    declared = getattr(getattr(found, "valid_processor_kwargs", None), "_defaults", {})  # where 5.17 has them
    given = own or declared.get("images_kwargs", {})
    return {name: value for name, value in given.items() if hasattr(processor, name)}


def tile_of(processor: Any, config: PreTrainedConfig) -> tuple[int, int]:
    """Height and width in pixels of every tile. Raises ModelError for a processor that gives unlike ones."""
    shapes = {tiles.shape[1:] for tiles in _probed(processor, call_options(processor, config))}
    if len(shapes) > 1:
        raise ModelError(
            f"the image processor of this '{config.model_type}' gives pictures different shapes, and ftx takes tiles "
            "of one: set do_resize and a size with height and width"
        )
    _, height, width = shapes.pop()
    return height, width


def native_pictures(folder: Path, native: PreTrainedModel, tokenizer: Tokenizer, most: int | None) -> NativePictures:
    """The eyes of the folder's model, which is `native` on the meta device; `most` bounds a picture's tiles.

    Raises ModelError.
    """
    config = native.config
    processor = open_processor(folder, config)
    options = call_options(processor, config)
    if most is not None:
        if not hasattr(processor, "max_patches"):
            raise ModelError(f"family.max_patches: the image processor of this '{config.model_type}' cuts no tiles")
        options["max_patches"] = most
    around = AROUND.get(config.model_type)
    ids = [_token(tokenizer, folder, text) for text in around or ()]
    eyes = NativePictures(
        processor=processor,
        options=options,
        places=_places(native, tile_of(processor, config)),
        image_token=int(config.image_token_id),
        begin=tuple(ids[:1]),
        end=tuple(ids[1:]),
        asked=_whole_processor(folder, processor, config, tokenizer) if around is None else None,
    )
    told = [eyes.tiles(size) for size in PROBES]
    if told != [len(tiles) for tiles in _probed(processor, options)]:
        raise ModelError(f"the image processor of this '{config.model_type}' cuts pictures otherwise than it tells")
    eyes.lay_out(PROBES)
    return eyes


def _probed(processor: Any, options: Mapping[str, Any]) -> list[NDArray[np.float32]]:
    """The tiles of blank pictures of the sizes in PROBES. Raises ModelError."""
    from PIL import Image

    try:
        return [_cut(processor, [Image.new("RGB", size)], options) for size in PROBES]
    # Settings are used unchecked by most processors.
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(f"preprocessor_config.json cannot be used: {_said(error)}") from None


def _cut(processor: Any, pictures: Sequence[Image.Image], options: Mapping[str, Any]) -> NDArray[np.float32]:
    """float32 [tiles, 3, height, width] of all pictures in order. Raises ModelError where that is not all there is."""
    import numpy as np

    given = processor(images=list(pictures), **options)
    if more := sorted(given.keys() - GIVEN):
        raise ModelError(f"the image processor gives {', '.join(more)} beside pixels, which ftx has not for this model")
    return np.stack([np.asarray(tile, np.float32) for tile in given["pixel_values"]])


def _places(native: PreTrainedModel, tile: tuple[int, int]) -> int:
    """Features of a tile, by the shapes that the model computes. Raises ModelError."""
    import torch

    try:
        with torch.device("meta"):
            found = native.picture_features(torch.zeros(1, 3, *tile))
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"the image processor gives tiles of {tile[0]} x {tile[1]} pixels, which the vision tower does not take: "
            f"{_said(error)}"
        ) from None
    return int(found.shape[1])


def _token(tokenizer: Tokenizer, folder: Path, text: str) -> int:
    """The id of a token that stands beside a picture. Raises ModelError."""
    number = tokenizer.special(text)
    if number is None:
        raise ModelError(f"the tokenizer of {folder} has no special token {text}, which pictures need")
    return number


def _said(error: Exception) -> str:
    """What an error of transformers says, in one line."""
    return " ".join(str(error).split())


def _processor_class(config: PreTrainedConfig) -> Any:
    """transformers' processor for this type of model, None where it has none."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    return PROCESSOR_MAPPING.get(type(config), None)


def _whole_processor(folder: Path, images: Any, config: PreTrainedConfig, tokenizer: Tokenizer) -> Any:
    """The model's processor, which writes what stands in a row for a picture. Raises ModelError."""
    found = _processor_class(config)
    if found is None:
        raise ModelError(f"transformers has no processor for a '{config.model_type}', to say what stands for a picture")
    settings = folder / "processor_config.json"
    try:
        return found.from_args_and_dict([images, tokenizer.hf], read_json(settings) if settings.is_file() else {})
    # Each processor takes what it needs from the tokenizer in its own way.
    except (ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise ModelError(f"{folder}: no {found.__name__} can be made of it: {_said(error)}") from None
