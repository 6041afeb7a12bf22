"""XTuner's own command line, in its environment or its image."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from ftx import RecipeError
from ftx.environments import NoEnvironment, own_variables, python_of
from ftx.errors import FtxError
from ftx.plugins import Registry

NAME = "xtuner"
IMAGE = "ftx:xtuner"
ENGINES = ("docker", "podman")


class ContainerError(FtxError):
    """A container engine or an image is not there."""

    kind = "container"


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

    Raises ContainerError without an engine or the image, RecipeError for a mount that is not there.
    """
    engine = next((found for found in ENGINES if shutil.which(found)), None)
    if engine is None:
        raise ContainerError(
            "there is no Docker or Podman here to run an image with; install one, or: ftx env create xtuner"
        )
    if subprocess.run([engine, "image", "inspect", image], capture_output=True, check=False).returncode:
        raise ContainerError(
            f"{engine} has no image {image}; build it from a checkout: make image-xtuner, or name another with --image"
        )
    here = Path.cwd()
    read = sorted({*_given(mounts), *_named(words)})
    return [
        *(engine, "run", "--rm", "--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
        *("--read-only", "--tmpfs=/tmp:exec,mode=1777", "--shm-size=8g", f"--user={os.getuid()}:{os.getgid()}"),
        *(["--gpus=all"] if gpus else []),
        *(f"--volume={here}:{here}", f"--workdir={here}", "--env=OMP_NUM_THREADS"),
        *(f"--volume={path}:{path}:ro" for path in read if not path.is_relative_to(here)),
        *(image, *words),
    ]


def _given(mounts: Iterable[Path]) -> list[Path]:
    for path in mounts:
        if not path.exists():
            raise RecipeError(f"--mount: {path} is not there; name a folder or a file that is")
    return [path.resolve() for path in mounts]


def _named(words: Iterable[str]) -> set[Path]:
    """The files and folders that the words, and the texts in a config among them, name by absolute paths."""
    found = {Path(word) for word in words if Path(word).exists()}
    texts = {text for path in found if path.suffix == ".py" for text in _texts(path)}
    outside = {path.resolve() for path in found} | {Path(text) for text in texts if Path(text).is_absolute()}
    return {path for path in outside if path.exists() and path != Path("/")}


def _texts(config: Path) -> Iterable[str]:
    """The texts in a config, which is read and never run; none where it is no Python."""
    try:
        tree = ast.parse(config.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ()
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
