"""The interpreter of an app: an environment with the app's own requirements, made once for those who share them."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from ftx.atomic import hash_text
from ftx.data.cache import cache_root
from ftx.errors import RecipeError

READY = "ready"  # lies in a whole environment
SHOWN = 5  # lines of pip's that a sentence quotes


def app_python(folder: Path, given: Path | None, say: Callable[[str], None]) -> Path:
    """The interpreter for the app in `folder`: the one given, or that of an environment in ftx's cache.

    Raises RecipeError when there is none and none can be made.
    """
    if given is not None:
        if not given.is_file():
            raise RecipeError(f"--python: {given} is no interpreter; name one that has {folder / 'requirements.txt'}")
        return given.absolute()
    wanted = (folder / "requirements.txt").read_text("utf-8")
    place = cache_root() / "apps" / hash_text(sys.version + wanted)[:16]
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / READY).is_file():
            say(f"installing {folder / 'requirements.txt'} into an environment of its own; this is done once")
            _make(place, folder / "requirements.txt")
    return place / "bin" / "python"


def _make(place: Path, requirements: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(requirements)]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        last = " ".join([line for line in done.stderr.splitlines() if line.startswith("ERROR")][-SHOWN:])
        raise RecipeError(f"{requirements} cannot be installed: {last}; or name an interpreter that has it: --python")
    (place / READY).touch()
