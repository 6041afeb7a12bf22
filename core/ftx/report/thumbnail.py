"""Pictures small enough for a page."""

from __future__ import annotations

import io
from pathlib import Path

SIDE = 320  # pixels at most


def thumbnail(path: Path) -> bytes:
    """A picture file as a JPEG no larger than SIDE. Raises what Pillow raises."""
    from ftx.data.images import open_rgb

    image = open_rgb(path)
    image.thumbnail((SIDE, SIDE))
    held = io.BytesIO()
    image.save(held, "JPEG", quality=85)
    return held.getvalue()
