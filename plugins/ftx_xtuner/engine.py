"""XTuner's own command line, in its environment or its image."""

from __future__ import annotations

import ast
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from ftx import RecipeError
from ftx.containers.command import NONE, Call, shown, travelling
from ftx.containers.engine import find_engine
from ftx.containers.mounts import Needs, is_own, mounts_of, refuse_own, values_of
from ftx.environments import NoEnvironment, own_variables, python_of
from ftx.plugins import Registry
from ftx.user_paths import current_folder, refuse_bad_paths

NAME = "xtuner"
IMAGE = "ftx:xtuner"
WRITTEN = "work-dir"
CONVERT = "convert"


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

    Raises ContainerError without an engine or the image, RecipeError for a mount that is not there or not handed over.
    """
    here = refuse_own(current_folder())
    engine = find_engine()
    engine.image(image)
    call = Call(
        image=image,
        words=list(words),
        cwd=here,
        user=(os.geteuid(), os.getegid()),
        gpus="all" if gpus else NONE,
        mounts=mounts_of(_needs(words, here), map(str, mounts), ()),
        passed=travelling(()),
    )
    return shown(call, engine)


@refuse_bad_paths()
def _needs(words: Sequence[str], here: Path) -> Needs:
    """What the words, and by absolute paths the texts in a config among them, name; `here` is written."""
    needs = Needs(here)
    needs.writes.add(here)
    values = list(values_of(list(words)))
    for name, value in values:
        if name == WRITTEN:
            _write(needs, value)
            continue
        needs.read(value)
        path = needs.named(value)
        for text in _texts(path) if path and path.suffix == ".py" else ():
            if Path(text).is_absolute() and not is_own(Path(text)):
                needs.read(text)
    if words[0] == CONVERT:  # names what it writes last
        _write(needs, [value for name, value in values if not name][-1])
    return needs


def _write(needs: Needs, text: str) -> None:
    """Take in a folder that is to be written. Raises RecipeError for one elsewhere that is not there."""
    path = needs.absolute(text)
    if path.is_relative_to(needs.cwd):
        return
    if not path.is_dir():
        raise RecipeError(f"{path} is to be written and is not there; make it first: mkdir -p {shlex.quote(str(path))}")
    needs.writes.add(path)


def _texts(config: Path) -> Iterable[str]:
    """The texts in a config, which is read and never run; none where it is no Python."""
    try:
        tree = ast.parse(config.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ()
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
