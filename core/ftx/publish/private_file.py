"""Files with secrets: read only when they are the user's alone, written so that nobody else could ever read them."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from ftx.errors import RecipeError, StorageError

OTHERS = stat.S_IRWXG | stat.S_IRWXO
LONGEST = 1 << 20  # bytes; a token is shorter, and a file that never ends is no token


def read_private(path: Path, named: str) -> str:
    """The text of a file. `named` is what the user called it by.

    Raises RecipeError when others may read it or it is someone else's: then they know the token, or chose it.
    """
    try:
        # Not to wait for a pipe that nobody writes to.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise RecipeError(f"{named}: {path} is no file; name a file that holds the token alone")
            if about.st_uid != os.geteuid():
                raise RecipeError(
                    f"{named}: {path} belongs to another user; make it yours: chown $(id -u) {path} && chmod 600 {path}"
                )
            if about.st_mode & OTHERS:
                raise RecipeError(f"{named}: others may read {path}; run: chmod 600 {path}")
            return file.read(LONGEST).decode("utf-8")
    except OSError as error:
        raise RecipeError(f"{named}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{named}: {path} holds no text; write the token alone into it, and nothing else") from None


def write_private(path: Path, text: str) -> None:
    """Write the file whole, with mode 0600 from its first byte on, in a folder of mode 0700. Raises StorageError."""
    try:
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error.strerror}; what was there before is whole") from None
