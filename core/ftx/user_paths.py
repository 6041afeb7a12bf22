"""Paths that users name, where looking at them fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftx.errors import RecipeError


@contextmanager
def refuse_bad_paths() -> Iterator[None]:
    """Raises RecipeError for a path in the block that cannot be looked at: it is closed to the user, or too long."""
    try:
        yield
    except OSError as error:
        name = error.filename or "the working folder"  # the system's word on that names none
        raise RecipeError(f"{name} cannot be looked at: {error.strerror}") from None


def current_folder() -> Path:
    """The working folder. Raises RecipeError when it was removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise RecipeError("the working folder was removed; change into one that is there") from None
