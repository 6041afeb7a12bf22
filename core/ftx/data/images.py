"""Pictures that rows name: found inside their folder, whole, and of a size that a machine can hold."""

from __future__ import annotations

import warnings
from pathlib import Path, PurePosixPath

from ftx.data.conversation import RowError

MAX_SIDE = 16_384  # pixels; wider ones are mistakes or attacks, and no vision model reads them
MAX_PIXELS = 100_000_000


def image_path(folder: Path, name: str) -> Path:
    """The picture `name` of `folder`. Raises RowError for a name that leaves the folder or names nothing in it."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or name.startswith(("http://", "https://", "data:", "file:")) or "\x00" in name:
        raise RowError(f"image '{name[:80]}' is no path inside the image folder", "give a path relative to it")
    path = folder / parts
    if ".." in parts.parts:
        raise RowError(f"image '{name[:80]}' leaves the image folder", "give a path inside it")
    try:
        found = path.is_file()
    except OSError:  # a name too long for the file system
        found = False
    if not found:
        raise RowError(f"image '{name[:80]}' is not in {folder}", "put it there, or set image_folder")
    # Asked last: only the name of a file that is there resolves whatever it is made of.
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RowError(f"image '{name[:80]}' leaves the image folder", "give a path inside it")
    return path


def check_image(folder: Path, name: str) -> tuple[int, int]:
    """Width and height in pixels of a picture that opens whole. Raises RowError."""
    from PIL import Image, UnidentifiedImageError

    path = image_path(folder, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures, which are measured here
            with Image.open(path) as image:
                width, height = image.size
                if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
                    raise RowError(f"image '{name}' is {width} x {height} pixels", f"keep it below {MAX_SIDE} a side")
                image.load()
    except UnidentifiedImageError:
        raise RowError(f"image '{name}' is no picture", "replace it") from None
    # Pillow's decoders fail in their own ways on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, NotImplementedError, Image.DecompressionBombError) as error:
        raise RowError(f"image '{name}' does not open: {error}", "replace it") from None
    return width, height
