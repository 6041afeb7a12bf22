"""Pictures that rows name: found inside their folder, whole, of a size that a machine can hold, and opened as RGB."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ftx.data.conversation import Picture, RowError
from ftx.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

MAX_SIDE = 16_384  # pixels; wider ones are mistakes or attacks, and no vision model reads them
MAX_PIXELS = 100_000_000
MAX_RATIO = 200  # of the sides: a longer strip is nothing to see, and a resize of its short side would fill the memory
TURNED = 5  # from this EXIF orientation on, width and height change places
WHITE = (255, 255, 255)
# What browsers show; Pillow's other decoders stay shut to strangers, one of them even starts a program.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
OF_DATA = (*FORMATS, "TIFF", "JPEG2000", "PPM")


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


def look_at(folder: Path, name: str) -> Picture:
    """The picture `name` of `folder`, decoded once to the end. Raises RowError."""
    path = image_path(folder, name)
    with decoding(name), path.open("rb") as file:
        state = os.fstat(file.fileno())  # of what is read, whatever takes its place
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        width, height = _measured(file, name)
    return Picture(str(path.resolve()), width, height, state.st_size, state.st_mtime_ns, digest)


def is_as_seen(picture: Picture) -> bool:
    """Whether the file is still the one that was looked at, by its size and time."""
    try:
        state = Path(picture.path).stat()
    except OSError:
        return False
    return (state.st_size, state.st_mtime_ns) == (picture.size, picture.mtime_ns)


def open_picture(picture: Picture) -> Image.Image:
    """The picture as RGB. Raises DataError when the file has changed since it was looked at."""
    try:
        with decoding(picture.path):
            image = open_rgb(Path(picture.path))
    except RowError as error:
        raise DataError(f"{error.reason}: it has changed since the data were prepared") from None
    if image.size != (picture.width, picture.height):
        raise DataError(f"image '{picture.path}' has changed since the data were prepared; start again")
    return image


def open_rgb(path: Path) -> Image.Image:
    """A picture file as people see it, in RGB.

    Turned as its EXIF orientation says; of an animation the first frame; transparent parts on white; 16-bit grey scaled
    to 8 bits. Raises what Pillow raises.
    """
    from PIL import Image, ImageOps

    with Image.open(path, formats=OF_DATA) as image:
        image.load()
        seen = ImageOps.exif_transpose(image) if image.getexif() else image
    if seen.mode.startswith("I") or seen.mode == "F":
        return _eight_bits(seen)
    if seen.has_transparency_data:
        clear = seen.convert("RGBA")
        ground = Image.new("RGB", seen.size, WHITE)
        ground.paste(clear, mask=clear.getchannel("A"))
        return ground
    return seen.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits as RGB: fractions up to 1 become 256 steps, numbers beyond 255 are taken for 16 bits."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image, np.float64)
    brightest = values.max(initial=0)
    if image.mode == "F" and brightest <= 1:
        values = values * 255
    elif brightest > 255:
        values = values / 257
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")


def _measured(file: object, name: str) -> tuple[int, int]:
    """Width and height as the picture is to be seen; its decoder has reached the end. Raises RowError."""
    from PIL import ExifTags, Image

    with Image.open(file, formats=OF_DATA) as image:  # type: ignore[arg-type]
        width, height = image.size
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise RowError(f"image '{name}' is {width} x {height} pixels", f"keep it below {MAX_SIDE} a side")
        if max(width, height) > MAX_RATIO * min(width, height):
            raise RowError(
                f"image '{name}' is {width} x {height} pixels, more than {MAX_RATIO} times as long as wide", "crop it"
            )
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation, 1)
    return (height, width) if isinstance(turned, int) and TURNED <= turned <= 8 else (width, height)


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn what Pillow raises about the picture `name` into RowErrors."""
    from PIL import Image, UnidentifiedImageError

    # Pillow warns of large pictures, which are measured, and of odd ones, which open or do not. Said anew each time, as
    # a context for warnings is no thread's own.
    warnings.filterwarnings("ignore", module=r"PIL\b")
    try:
        yield
    except UnidentifiedImageError:
        raise RowError(f"image '{name}' is no picture", f"replace it by one in {', '.join(OF_DATA)}") from None
    # Pillow's decoders fail in their own ways on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, NotImplementedError, Image.DecompressionBombError) as error:
        raise RowError(f"image '{name}' does not open: {error}", "replace it") from None
