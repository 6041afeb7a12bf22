"""Paths that users name, where looking at them fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftx.errors import RecipeError

_SHOWN = 60  # characters of a name that is too long


@contextmanager
def refuse_bad_paths() -> Iterator[None]:
    """Raises RecipeError for a path in the block that cannot be looked at: it is closed to the user, or too long."""
    try:
        yield
    except OSError as error:
        name = error.filename or "the working folder"  # the system's word on that names none
        raise RecipeError(f"{name} cannot be looked at: {error.strerror}") from None


def too_long(error: OSError) -> str | None:
    """The sentence for a name that no file can have; None when `error` tells of something else."""
    if error.errno != errno.ENAMETOOLONG:
        return None
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "a path"
    return f"{_shortened(name)} is too long for the name of a file; give a shorter one"


def _shortened(name: str) -> str:
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."


def current_folder() -> Path:
    """The working folder. Raises RecipeError when it was removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise RecipeError("the working folder was removed; change into one that is there") from None
