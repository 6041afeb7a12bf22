"""What this app was made with: settings.json, where an environment variable APP_NAME goes before NAME of the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

from refused import CannotStart

HERE = Path(__file__).resolve().parent


def read_settings() -> dict:
    """The settings; a value from the environment takes the kind of the file's. Raises CannotStart."""
    settings = json.loads((HERE / "settings.json").read_text("utf-8"))
    for name, value in settings.items():
        variable = "APP_" + name.upper()
        if variable in os.environ:
            settings[name] = _as(value, variable, os.environ[variable])
    return settings


def _as(value: object, variable: str, given: str) -> object:
    """What is given as a value of the same kind."""
    if isinstance(value, list):
        return [given]
    try:
        return given if value is None else type(value)(given)
    except ValueError:
        raise CannotStart(f"{variable} is {given!r}; set it to a number like {value}, or not at all.") from None
