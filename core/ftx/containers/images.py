"""Which image a command line runs in where none is named."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftx.environments import Environment
    from ftx.plugins import Registry

VARIABLE = "FTX_IMAGE"


def image_of(named: str | None, words: list[str], registry: Registry, *, gpus: bool) -> str:
    """The image: `named`, or that of the environment so called; else the command's plugin's, FTX_IMAGE, or ours."""
    from ftx.environments import declared

    environments = declared(registry)
    if named:
        return _with_ftx(environments[named]) if named in environments else named
    for environment in environments.values():
        if any(words[: len(one.split())] == one.split() for one in environment.commands):
            return _with_ftx(environment)
    return os.environ.get(VARIABLE) or ours("cuda" if gpus else "cpu")


def ours(target: str) -> str:
    """The image that `make image-TARGET` builds."""
    return f"ftx:{target}"


def _with_ftx(environment: Environment) -> str:
    """The image that holds ftx and the environment; without one, whatever image the plugin names."""
    return ours(environment.target) if environment.target else environment.image or ours("cpu")
