"""XTuner's own command line, in its environment or its image."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ftx import RecipeError
from ftx.containers.command import NONE, Call, shown, travelling
from ftx.containers.engine import find_engine
from ftx.containers.mounts import Mount, is_own, refuse_own
from ftx.environments import NoEnvironment, own_variables, python_of
from ftx.plugins import Registry

NAME = "xtuner"
IMAGE = "ftx:xtuner"


def in_environment(words: Sequence[str], registry: Registry) -> tuple[list[str], dict[str, str]]:
    """The command and its variables. Raises NoEnvironment."""
    try:
        programs = python_of(NAME, registry).parent
    except NoEnvironment as error:
        raise NoEnvironment(f"{error}, or use the image: ftx xtuner run --image {IMAGE}") from None
    variables = own_variables()
    # XTuner starts itself anew with whatever `python` it finds.
    return [str(programs / NAME), *words], {**variables, "PATH": f"{programs}{os.pathsep}{variables.get('PATH', '')}"}


def in_image(words: Sequence[str], image: str, mounts: Iterable[Path], gpus: bool) -> list[str]:
    """The engine's command: this folder is written, what `words` and their configs name outside it is read.

    Raises ContainerError without an engine or the image, RecipeError for a mount that is not there or a working folder
    that is not handed over.
    """
    here = refuse_own(Path.cwd())
    engine = find_engine()
    engine.image(image)
    read = sorted({*_given(mounts), *_named(words)})
    call = Call(
        image=image,
        words=list(words),
        cwd=here,
        user=(os.geteuid(), os.getegid()),
        gpus="all" if gpus else NONE,
        mounts=[Mount(here, True), *(Mount(path) for path in read if not path.is_relative_to(here))],
        passed=travelling(()),
    )
    return shown(call, engine)


def _given(mounts: Iterable[Path]) -> list[Path]:
    for path in mounts:
        if not path.exists():
            raise RecipeError(f"--mount: {path} is not there; name a folder or a file that is")
    return [path.resolve() for path in mounts]


def _named(words: Iterable[str]) -> set[Path]:
    """The files and folders that the words, and the texts in a config among them, name by absolute paths."""
    found = {Path(word) for word in words if _there(Path(word))}
    texts = {text for path in found if path.suffix == ".py" for text in _texts(path)}
    outside = {path.resolve() for path in found} | {Path(text) for text in texts if Path(text).is_absolute()}
    return {path for path in outside if _there(path) and not is_own(path)}


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text that is no path, or in a folder that may not be entered
        return False


def _texts(config: Path) -> Iterable[str]:
    """The texts in a config, which is read and never run; none where it is no Python."""
    try:
        tree = ast.parse(config.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ()
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
