"""Tokens: from the environment, or from a file that is the user's alone. Never from a recipe or a command line."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ftx.errors import RecipeError


def token(variable: str) -> str | None:
    """The value of `variable`, or what the file that `variable`_FILE names holds; None without either.

    Raises RecipeError for a file that others may read.
    """
    value = os.environ.get(variable, "").strip()
    named = os.environ.get(f"{variable}_FILE")
    if value or not named:
        return value or None
    path = Path(named)
    try:
        about = path.stat()
        text = path.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise RecipeError(f"{variable}_FILE: {path} cannot be read: {error}") from None
    if about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise RecipeError(f"{variable}_FILE: others may read {path}; run: chmod 600 {path}")
    return text or None


def scrub(text: str, secret: str | None) -> str:
    """`text` without the secret, for sentences made of what others printed."""
    return text.replace(secret, "***") if secret else text
