"""How a LLaVA sees pictures: CLIP's and SigLIP's own preparation, with Pillow and numpy alone.

Equal to transformers' image processors, and with `pad` square to XTuner's pad_image_to_square and haotian-liu's
image_aspect_ratio pad (reference: pixel_values of the llava_* folders).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError

from ftx import ImageProcessor, ModelError
from ftx.checkpoint_files import read_json
from ftx.data.template import IMAGE_ID

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

FILES = ("preprocessor_config.json", "processor_config.json")
BRIGHTEST = 255


class Preparation(BaseModel, strict=True):
    """The keys of preprocessor_config.json that decide what a model gets to see."""

    do_resize: Literal[True] = True
    do_rescale: Literal[True] = True
    do_normalize: Literal[True] = True
    size: PositiveInt | dict[str, PositiveInt]
    crop_size: PositiveInt | dict[str, PositiveInt] | None = None
    do_center_crop: bool | None = None
    resample: int = Field(3, ge=0, le=5)  # Pillow's numbers; 3 is bicubic
    rescale_factor: PositiveFloat = 1 / BRIGHTEST
    image_mean: tuple[float, float, float] = Field(strict=False)
    image_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(strict=False)

    @property
    def shortest(self) -> int | None:
        """Pixels that the shorter side is resized to; None when both sides have a size of their own."""
        return self.size if isinstance(self.size, int) else self.size.get("shortest_edge")

    @property
    def result(self) -> tuple[int, int]:
        """Height and width in pixels of what comes out; a missing side is 0."""
        cropped = self.crop_size is not None if self.do_center_crop is None else self.do_center_crop
        size = self.crop_size if cropped and self.crop_size is not None else self.size
        if isinstance(size, int):
            return size, size
        edge = size.get("shortest_edge", 0)
        return size.get("height", edge), size.get("width", edge)


def read_preparation(folder: Path) -> Preparation:
    """What the folder says of preparing pictures. Raises ModelError."""
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise ModelError(f"{folder} has no {FILES[0]}: how pictures are prepared for its vision tower is not known")
    values = read_json(path)
    values = values.get("image_processor", values) if path.name == FILES[1] else values
    try:
        return Preparation.model_validate(values)
    except ValidationError as error:
        raise ModelError(*(f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from None


@dataclass(frozen=True)
class Prepared(ImageProcessor):
    """One tile a picture, one place a patch.

    `side` in pixels of the square that the tower sees; `shortest` side of the picture before its middle is cut out,
    None when it is resized to the square whatever its proportions. `scale`, `mean` and `std` make of 0 to 255 what the
    tower was trained with. `pad` puts the picture on a square ground of the mean colour first.
    """

    side: int
    places: int
    shortest: int | None
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pad: bool

    def key(self) -> Mapping[str, Any]:
        return asdict(self)

    def lay_out(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        return [(IMAGE_ID,) * self.places for _ in sizes]

    def pixels(self, rows: Sequence[Sequence[Image.Image]]) -> torch.Tensor:
        import numpy as np
        import torch

        tiles = np.stack([np.asarray(self._cut(picture)) for row in rows for picture in row])
        return torch.from_numpy(self._normalised(tiles))

    def _cut(self, picture: Image.Image) -> Image.Image:
        from PIL.Image import Resampling

        whole = on_square(picture, self.mean) if self.pad else picture
        if self.shortest is None:
            return whole.resize((self.side, self.side), Resampling(self.resample))
        short, long = sorted(whole.size)
        sides = [self.shortest, int(self.shortest * long / short)]
        width, height = sides if whole.width <= whole.height else reversed(sides)
        left, top = (width - self.side) // 2, (height - self.side) // 2
        resized = whole.resize((width, height), Resampling(self.resample))
        return resized.crop((left, top, left + self.side, top + self.side))

    def _normalised(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 [tiles, 3, height, width] of [tiles, height, width, 3].

        Looked up, as there are but 256 values of a channel; each is computed as transformers does.
        """
        import numpy as np

        scaled = (np.arange(BRIGHTEST + 1) * self.scale).astype(np.float32)
        channels = [
            np.take((scaled - np.float32(mean)) / np.float32(std), tiles[..., i])
            for i, (mean, std) in enumerate(zip(self.mean, self.std, strict=True))
        ]
        return np.stack(channels, axis=1)


def on_square(picture: Image.Image, mean: tuple[float, float, float]) -> Image.Image:
    """The picture in the middle of a square of the mean colour; one that is square as it is."""
    from PIL import Image

    side = max(picture.size)
    if picture.width == picture.height:
        return picture
    ground = Image.new("RGB", (side, side), tuple(int(value * BRIGHTEST) for value in mean))
    ground.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return ground
