"""What this app was made with: settings.json, where an environment variable APP_NAME goes before NAME of the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

HERE = Path(__file__).resolve().parent


def read_settings() -> dict:
    """The settings; a value from the environment takes the kind of the file's."""
    settings = json.loads((HERE / "settings.json").read_text("utf-8"))
    for name, value in settings.items():
        given = os.environ.get("APP_" + name.upper())
        if given is not None:
            settings[name] = [given] if isinstance(value, list) else given if value is None else type(value)(given)
    return settings
