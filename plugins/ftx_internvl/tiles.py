"""Dynamic tiling: a picture is cut into squares in a grid of nearly its own proportions, with a thumbnail beside them.

Equal to the official code (InternVL's train/dataset.py; reference: internvl_dynamic_preprocess.json) with Pillow and
torch alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ftx import ImageProcessor
from ftx.data.template import IMAGE_ID

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

# ImageNet's, which InternViT was trained with
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Tiling(ImageProcessor):
    """InternVL2's eyes.

    `side` in pixels of a tile; `places`, features of one; at least `fewest` and at most `most` tiles for all pictures
    of a row together, `thumbnail` not counted, and for none less than one: as the official training shares them out.
    `begin` and `end` are the ids of <img> and </img>. Without `dynamic` a picture is one tile, on a square ground with
    `pad`.
    """

    side: int
    places: int
    fewest: int
    most: int
    thumbnail: bool
    dynamic: bool
    pad: bool
    begin: int
    end: int

    def key(self) -> Mapping[str, Any]:
        return asdict(self)

    def lay_out(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        counts = [self.tiles(size, len(sizes)) for size in sizes]
        return [(self.begin, *[IMAGE_ID] * (self.places * count), self.end) for count in counts]

    def tiles(self, size: tuple[int, int], pictures: int = 1) -> int:
        """Tiles of a picture of this width and height in a row of so many pictures, its thumbnail included."""
        columns, rows = self.grid(size, pictures)
        return columns * rows + (self.thumbnail and columns * rows > 1)

    def grid(self, size: tuple[int, int], pictures: int = 1) -> tuple[int, int]:
        """Columns and rows of the tiles."""
        if not self.dynamic:
            return 1, 1
        return best_grid(size, self.side, self.fewest, max(1, self.most // pictures))

    def pixels(self, rows: Sequence[Sequence[Image.Image]]) -> torch.Tensor:
        import numpy as np
        import torch

        tiles = [np.asarray(tile) for row in rows for picture in row for tile in self._cut(picture, len(row))]
        return torch.from_numpy(_normalised(np.stack(tiles)))

    def _cut(self, picture: Image.Image, pictures: int) -> list[Image.Image]:
        side = self.side
        if not self.dynamic:
            return [_resized(_squared(picture) if self.pad else picture, (side, side))]
        columns, rows = self.grid(picture.size, pictures)
        whole = _resized(picture, (side * columns, side * rows))
        if columns == rows == 1:
            return [whole]
        corners = [(side * column, side * row) for row in range(rows) for column in range(columns)]
        tiles = [whole.crop((x, y, x + side, y + side)) for x, y in corners]
        if self.thumbnail:
            tiles.append(_resized(picture, (side, side)))
        return tiles


def best_grid(size: tuple[int, int], side: int, fewest: int, most: int) -> tuple[int, int]:
    """Columns and rows, of `fewest` to `most` tiles, whose proportions are nearest to the picture's.

    Of grids equally near, a later and larger one is taken when the picture has more than half its pixels.
    """
    width, height = size
    best, nearest = (1, 1), float("inf")
    for columns, rows in _grids(fewest, most):
        distance = abs(width / height - columns / rows)
        larger = distance == nearest and width * height > 0.5 * side * side * columns * rows
        if distance < nearest or larger:
            best, nearest = (columns, rows), distance
    return best


@cache
def _grids(fewest: int, most: int) -> tuple[tuple[int, int], ...]:
    """All grids by their number of tiles; those of equal number in the official code's order, which is a set's."""
    found = {
        (columns, rows)
        for tiles in range(fewest, most + 1)
        for columns in range(1, tiles + 1)
        for rows in range(1, tiles + 1)
        if fewest <= columns * rows <= most
    }
    return tuple(sorted(found, key=lambda grid: grid[0] * grid[1]))


def _squared(picture: Image.Image) -> Image.Image:
    """The picture in the middle of a square of the mean colour."""
    from PIL import Image

    side = max(picture.size)
    ground = Image.new("RGB", (side, side), tuple(int(value * 255) for value in MEAN))
    ground.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return ground


def _normalised(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [tiles, 3, height, width] from 0 to 1, less the mean, by the deviation.

    In numpy, not torch: many threads do this at once, and each of torch's small operations would wake all cores.
    """
    import numpy as np

    values = tiles.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    values /= np.float32(255)
    values -= np.asarray(MEAN, np.float32)[:, None, None]
    values /= np.asarray(STD, np.float32)[:, None, None]
    return values


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    from PIL import Image

    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)
