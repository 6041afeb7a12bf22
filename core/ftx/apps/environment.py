"""The interpreter of an app: an environment with the app's own requirements, made once for those who share them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ftx.environments import Environment, ensured, interpreter_in
from ftx.errors import RecipeError

OURS = f"{sys.version_info[0]}.{sys.version_info[1]}"


def app_python(folder: Path, given: Path | None, say: Callable[[str], None]) -> Path:
    """The interpreter for the app in `folder`: the one given, or that of an environment in ftx's cache.

    `say` gets the installer's lines. Raises RecipeError for `given` that is none and for an app without requirements,
    and what `ensured` raises.
    """
    if given is None:
        return interpreter_in(ensured(_environment(folder), None, say))
    if not given.is_file():
        raise RecipeError(f"--python: {given} is no interpreter; name one that has {folder / 'requirements.txt'}")
    return given.absolute()


def _environment(folder: Path) -> Environment:
    requirements = folder / "requirements.txt"
    if not requirements.is_file():
        raise RecipeError(f"{folder} has no requirements.txt; put the app's own back, or make it anew with ftx app new")
    packages = tuple(line.partition("==")[0] for line in requirements.read_text("utf-8").split())
    page = "streamlit" if "streamlit" in packages else "gradio"
    return Environment("app", (OURS,), requirements, page, (page,), again=f"ftx app check {folder}")
