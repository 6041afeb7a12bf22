"""Pictures as the model was trained on them: opened with care, cut into tiles, as InternVL2's official code does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from refused import Refused

MAX_SIDE, MAX_PIXELS, MAX_RATIO = 16_384, 100_000_000, 200
# What browsers show; Pillow's other decoders stay shut to strangers, one of them even starts a program.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
WHITE = (255, 255, 255)
BICUBIC = Image.Resampling.BICUBIC


class Eyes:
    """How the model of a folder sees, from its preprocessor_config.json and processor_config.json."""

    def __init__(self, folder: Path, prompts: object) -> None:
        eyes = json.loads((folder / "preprocessor_config.json").read_text("utf-8"))
        self.side = int(eyes["size"]["height"])
        self.fewest, self.most = int(eyes["min_patches"]), int(eyes["max_patches"])
        self.mean, self.deviation = (
            np.asarray(eyes[k], np.float32)[:, None, None] for k in ("image_mean", "image_std")
        )
        self.features = int(json.loads((folder / "processor_config.json").read_text("utf-8"))["image_seq_length"])
        number = prompts.hf.convert_tokens_to_ids
        self.begin, self.feature, self.end = (number(token) for token in ("<img>", "<IMG_CONTEXT>", "</img>"))

    def look(self, paths: list) -> tuple:
        """For each picture its ids, and the pixels of all, float32 [tiles, 3, side, side]. Raises Refused."""
        cut = [self._tiles(opened(Path(path)), max(1, self.most // len(paths))) for path in paths]
        ids = [[self.begin, *[self.feature] * (self.features * len(tiles)), self.end] for tiles in cut]
        pixels = np.stack([np.asarray(tile) for tiles in cut for tile in tiles])
        values = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        values /= np.float32(255)
        values -= self.mean
        values /= self.deviation
        return ids, torch.from_numpy(values)

    def _tiles(self, picture: Image.Image, most: int) -> list:
        columns, rows = self._grid(picture.size, most)
        whole = picture.resize((self.side * columns, self.side * rows), BICUBIC)
        tiles = [
            whole.crop((self.side * x, self.side * y, self.side * (x + 1), self.side * (y + 1)))
            for y in range(rows)
            for x in range(columns)
        ]
        return tiles if len(tiles) == 1 else [*tiles, picture.resize((self.side, self.side), BICUBIC)]

    def _grid(self, size: tuple, most: int) -> tuple:
        """Columns and rows with proportions nearest to the picture's; of equals a later one for a large picture."""
        width, height = size
        best, nearest = (1, 1), float("inf")
        for columns, rows in _grids(self.fewest, most):
            distance = abs(width / height - columns / rows)
            larger = distance == nearest and width * height > 0.5 * self.side**2 * columns * rows
            if distance < nearest or larger:
                best, nearest = (columns, rows), distance
        return best


def _grids(fewest: int, most: int) -> list:
    """All grids by their number of tiles; those of equal number in the official code's order, which is a set's."""
    found = {
        (columns, rows)
        for tiles in range(fewest, most + 1)
        for columns in range(1, tiles + 1)
        for rows in range(1, tiles + 1)
        if fewest <= columns * rows <= most
    }
    return sorted(found, key=lambda grid: grid[0] * grid[1])


def opened(path: Path) -> Image.Image:
    """The picture as people see it, in RGB, transparent parts on white. Raises Refused."""
    name = path.name[:80]
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if (
                max(width, height) > MAX_SIDE
                or width * height > MAX_PIXELS
                or max(width, height) > MAX_RATIO * min(width, height)
            ):
                raise Refused(f"{name} is {width} x {height} pixels; show one of ordinary size.")
            image.load()
            seen = ImageOps.exif_transpose(image) if image.getexif() else image
    except UnidentifiedImageError:
        raise Refused(f"{name} is no picture that can be opened; show a PNG, JPEG, WebP, GIF or BMP file.") from None
    # Pillow's decoders fail in their own ways on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, NotImplementedError, Image.DecompressionBombError):
        raise Refused(f"{name} is damaged and does not open; show another picture.") from None
    if seen.mode.startswith("I") or seen.mode == "F":
        return _eight_bits(seen)
    if "A" in seen.getbands() or "transparency" in seen.info:
        clear = seen.convert("RGBA")
        ground = Image.new("RGB", seen.size, WHITE)
        ground.paste(clear, mask=clear.getchannel("A"))
        return ground
    return seen.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits as RGB: fractions up to 1 become 256 steps, numbers beyond 255 are taken for 16 bits."""
    values = np.asarray(image, np.float64)
    brightest = values.max(initial=0)
    if image.mode == "F" and brightest <= 1:
        values = values * 255
    elif brightest > 255:
        values = values / 257
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")
