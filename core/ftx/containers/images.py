"""Which image a command line runs in where none is named."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ftx.errors import RecipeError

if TYPE_CHECKING:
    from ftx.environments import Environment
    from ftx.plugins import Registry

VARIABLE = "FTX_IMAGE"


def image_of(named: str | None, words: list[str], registry: Registry, *, gpus: bool) -> str:
    """The image: `named`, or that of the environment so called; else the command's plugin's, FTX_IMAGE, or ours.

    Raises RecipeError for an environment whose image is without ftx.
    """
    from ftx.environments import declared

    environments = declared(registry)
    if named:
        return _target_of(environments[named]) if named in environments else named
    for environment in environments.values():
        if any(words[: len(one.split())] == one.split() for one in environment.commands):
            return _with_ftx(environment)
    return os.environ.get(VARIABLE) or ours("cuda" if gpus else "cpu")


def ours(target: str) -> str:
    """The image that `make image-TARGET` builds."""
    return f"ftx:{target}"


def _target_of(environment: Environment) -> str:
    if environment.target:
        return ours(environment.target)
    name = environment.name
    if environment.image is None:
        raise RecipeError(f"--image {name}: this environment has no image; leave --image out")
    raise RecipeError(f"--image {name}: its image is without ftx; use: ftx {name} run --image {environment.image}")


def _with_ftx(environment: Environment) -> str:
    """The image that holds ftx and the environment; without one, whatever image the plugin names."""
    return ours(environment.target) if environment.target else environment.image or ours("cpu")
