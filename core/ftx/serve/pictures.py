"""Pictures that come inside a request, as data: URLs. Nothing is fetched from the network or read from the disk."""

from __future__ import annotations

import base64
import binascii
import io
import re
from pathlib import Path

from ftx.data.conversation import RowError
from ftx.data.images import FORMATS, MAX_PIXELS, decoding
from ftx.serve.refusal import Refusal

MAX_PICTURES = 64
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)


def save_pictures(urls: list[str], folder: Path) -> list[Path]:
    """Write the pictures of `urls` into `folder`, in order. Raises Refusal."""
    if len(urls) > MAX_PICTURES:
        raise _refusal(f"the conversation has {len(urls)} pictures; {MAX_PICTURES} are allowed")
    pixels, paths = 0, []
    for number, url in enumerate(urls, 1):
        content = _content(url, number)
        pixels += _pixels(content, number)
        if pixels > MAX_PIXELS:
            raise _refusal(f"the pictures have more than {MAX_PIXELS:,} pixels together; send smaller ones")
        paths.append(folder / f"picture_{number}")
        paths[-1].write_bytes(content)
    return paths


def _content(url: str, number: int) -> bytes:
    head = _DATA_URL.match(url)
    if not head:
        raise _refusal(f"picture {number}: send it as data:image/png;base64,...; nothing is fetched from elsewhere")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise _refusal(f"picture {number}: what follows 'base64,' is no base64") from None


def _pixels(content: bytes, number: int) -> int:
    """Width times height, read from the head alone."""
    from PIL import Image

    try:
        with decoding(f"picture {number}"), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.width * image.height
    except RowError as error:
        raise _refusal(f"{error.reason}; send a whole {', '.join(FORMATS)} file") from None


def _refusal(message: str) -> Refusal:
    return Refusal(400, message, param="messages")
