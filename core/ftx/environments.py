"""Environments of their own, for plugins whose dependencies cannot share ftx's.

A plugin declares one with the hook `ftx_environments`; `ftx env create` makes it from the plugin's locked requirement
file, in ftx's cache, under a name that holds the lock's hash: when the lock changes, the old one is out of date.
`python_of` is all that the plugin's code asks for.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from sys import executable
from typing import TYPE_CHECKING, Any, Literal

from ftx.atomic import sha256_of, write_json
from ftx.data.cache import alone, cache_root
from ftx.errors import FtxError, HubError, RecipeError, StorageError, VerificationError, did_you_mean

if TYPE_CHECKING:
    from ftx.plugins import Registry

MARKER = "ftx-environment.json"  # written last: a folder without it is none
HASH = 16  # hex digits of the lock's hash in the folder's name
TAIL = 40  # lines of the installer that are kept to tell why it failed
# What would lead an interpreter or an installer out of the environment.
MISLEADING = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
# What pip and uv print, in small letters, when there is no way to the index, and when the disk is full.
OFFLINE = (
    "failed to establish a new connection",
    "connection refused",
    "temporary failure in name resolution",
    "name or service not known",
    "network is unreachable",
    "dns error",
    "timed out",
    "connection error",
    "failed to fetch",
)
FULL = ("no space left on device", "disk quota exceeded", "os error 28")

VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"
CHECK = """
import importlib, importlib.metadata, json, platform, sys
importlib.import_module(sys.argv[1])
versions = {"python": platform.python_version()}
for package in sys.argv[2:]:
    versions[package] = importlib.metadata.version(package)
print(json.dumps(versions))
"""


@dataclass(frozen=True)
class Environment:
    """What a plugin needs apart from ftx's own environment.

    `pythons` are the versions that fit, as "3.11", the best first; `requirements` is a file of pinned packages;
    `module` must import for it to be sound; `packages` are those whose versions are shown; `image` is a container
    image that holds the same, for those who prefer one. `target` is the one of ftx's own images that holds ftx and
    this; `ftx run` takes it for `commands`, as "lmdeploy serve". `program` is a script of the plugin's that answers
    questions in it (`ftx.in_environment`). `again` is the command that makes it, when `ftx env` does not.
    """

    name: str
    pythons: tuple[str, ...]
    requirements: Path
    module: str
    packages: tuple[str, ...]
    image: str | None = None
    target: str | None = None
    commands: tuple[str, ...] = ()
    program: Path | None = None
    again: str | None = None


State = Literal["ready", "out of date", "not made"]


class NoEnvironment(FtxError):
    """An environment is not there, or not as its plugin wants it now."""

    kind = "environment"


def declared(registry: Registry) -> dict[str, Environment]:
    """All environments that plugins declare, by name. Raises PluginError when two have one name."""
    from ftx.plugins import PluginError

    found: dict[str, Environment] = {}
    for several in registry.pm.hook.ftx_environments():
        for one in several or ():
            if one.name in found:
                raise PluginError(f"environment '{one.name}' is declared by two plugins: one must take another name")
            found[one.name] = one
    return dict(sorted(found.items()))


def named(name: str, registry: Registry) -> Environment:
    """The environment of that name. Raises RecipeError."""
    known = declared(registry)
    if name not in known:
        raise RecipeError(f"environment '{name}' is not known; {did_you_mean(name, known)}")
    return known[name]


def place_of(environment: Environment) -> Path:
    """The folder of the environment as its lock is now, made or not. Raises NoEnvironment for a lock that is gone."""
    try:
        digest = sha256_of(environment.requirements)
    except OSError as error:
        why = f"{environment.requirements} cannot be read: {error.strerror}"
        raise NoEnvironment(f"environment '{environment.name}': {why}; install its plugin again") from None
    return _root() / f"{environment.name}-{digest[:HASH]}"


def state_of(environment: Environment) -> State:
    """Whether the environment is there, and made from the lock of today."""
    if is_whole(place_of(environment)):
        return "ready"
    return "out of date" if any(is_whole(place) for place in _places(environment)) else "not made"


def python_of(name: str, registry: Registry | None = None) -> Path:
    """The interpreter of an environment that is ready. Raises NoEnvironment naming the command that makes it."""
    from ftx.plugins import load_registry

    environment = named(name, registry or load_registry())
    state = state_of(environment)
    if state != "ready":
        why = "is not made yet" if state == "not made" else "is out of date: its lock has changed"
        raise NoEnvironment(f"environment '{name}' {why}; run: ftx env create {name}")
    return interpreter_in(place_of(environment))


def interpreter_in(place: Path) -> Path:
    return place / "bin" / "python"


def own_variables() -> dict[str, str]:
    """The variables for a process in an environment: ours without those that would lead it out."""
    return {name: value for name, value in os.environ.items() if name not in MISLEADING}


def is_whole(place: Path) -> bool:
    return (place / MARKER).is_file() and interpreter_in(place).exists()


def facts_of(environment: Environment) -> Mapping[str, Any]:
    """What was written when the environment was made: its Python and the versions of its packages."""
    facts: dict[str, Any] = json.loads((place_of(environment) / MARKER).read_text("utf-8"))
    return facts


def create(environment: Environment, python: Path | None, say: Callable[[str], None]) -> Mapping[str, str]:
    """Make the environment, unless it is ready; its versions. `say` gets the installer's lines.

    `python` is the interpreter to build on, by default one that fits. A failure leaves nothing, and an older one as it
    was; a success takes the older ones away. Raises NoEnvironment, HubError, StorageError, VerificationError.
    """
    place = ensured(environment, python, say)
    for old in _places(environment):
        if old != place:
            shutil.rmtree(old, ignore_errors=True)
    made: dict[str, str] = facts_of(environment)["versions"]
    return made


def ensured(environment: Environment, python: Path | None, say: Callable[[str], None]) -> Path:
    """The environment's folder, made as `create` does unless it is ready; older ones stay for those who use them."""
    place = place_of(environment)
    with alone(place):
        if not is_whole(place):
            interpreter = fitting_python(environment, python)
            installer = _installer(interpreter_in(place))
            shutil.rmtree(place, ignore_errors=True)
            try:
                _make(environment, interpreter, place)
                _install(environment, installer, say)
                versions = check_in(environment, place)
                write_json(place / MARKER, {"name": environment.name, "versions": versions})
            finally:
                if not is_whole(place):
                    shutil.rmtree(place, ignore_errors=True)
    return place


def check(environment: Environment) -> Mapping[str, str]:
    """Import the environment's module in its interpreter; versions of its packages.

    Raises NoEnvironment, or VerificationError when it does not import.
    """
    if state_of(environment) != "ready":
        raise NoEnvironment(f"environment '{environment.name}' is {state_of(environment)}; {_remedy(environment)}")
    return check_in(environment, place_of(environment))


def remove(environment: Environment) -> bool:
    """Take the environment away, older ones too; whether there was any. Raises StorageError."""
    places = _places(environment)
    for place in places:
        try:
            shutil.rmtree(place)
        except OSError as error:
            raise StorageError(f"{place} could not be removed: {error.strerror}; remove it by hand") from None
    return bool(places)


def check_in(environment: Environment, place: Path) -> dict[str, str]:
    command = [str(interpreter_in(place)), "-I", "-c", CHECK, environment.module, *environment.packages]
    done = subprocess.run(command, capture_output=True, text=True, env=own_variables(), check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise VerificationError(
            f"environment '{environment.name}' cannot import {environment.module}: {why}; make it anew with: "
            f"{_anew(environment)}"
        )
    versions: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return versions


def fitting_python(environment: Environment, given: Path | None) -> Path:
    """An interpreter of a version that fits: `given`, our own, or one on the PATH. Raises NoEnvironment."""
    wanted = " or ".join(environment.pythons)
    if given is not None:
        version = _version(given)
        if version not in environment.pythons:
            is_what = f"is Python {version}" if version else "is no Python interpreter"
            raise NoEnvironment(f"--python: {given} {is_what}; environment '{environment.name}' needs {wanted}")
        return given
    on_path = [shutil.which(f"python{version}") for version in environment.pythons]
    for candidate in [Path(executable), *(Path(found) for found in on_path if found)]:
        if _version(candidate) in environment.pythons:
            return candidate
    raise NoEnvironment(
        f"environment '{environment.name}' needs Python {wanted}, and none is on the PATH; install one, or name it "
        f"with --python"
    )


def _version(python: Path) -> str:
    try:
        done = subprocess.run([str(python), "-I", "-c", VERSION], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if not done.returncode else ""


def _root() -> Path:
    named = os.environ.get("FTX_ENVIRONMENTS")
    return Path(named).absolute() if named else cache_root() / "environments"


def _places(environment: Environment) -> list[Path]:
    """All folders of the environment, of today's lock and of older ones."""
    digits = "[0-9a-f]" * HASH
    return sorted(_root().glob(f"{environment.name}-{digits}"))


def _anew(environment: Environment) -> str:
    return environment.again or f"ftx env remove {environment.name} && ftx env create {environment.name}"


def _remedy(environment: Environment) -> str:
    return f"run: ftx env create {environment.name}"


def _installer(target: Path) -> list[str]:
    """The command that installs into `target`: our own pip, which needs none there, else uv."""
    if find_spec("pip"):
        options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
        return [executable, "-m", "pip", "--python", str(target), "install", *options]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", str(target)]
    raise NoEnvironment("neither pip nor uv is here to install with; run: python -m ensurepip")


def _make(environment: Environment, interpreter: Path, place: Path) -> None:
    command = [str(interpreter), "-I", "-m", "venv", "--without-pip", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, env=own_variables(), check=False)
    if done.returncode:
        raise _failure(environment, (done.stderr or done.stdout).splitlines())


def _install(environment: Environment, installer: list[str], say: Callable[[str], None]) -> None:
    command = [*installer, "-r", str(environment.requirements)]
    kept: deque[str] = deque(maxlen=TAIL)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=own_variables()
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            kept.append(line.rstrip())
            say(line.rstrip())
    if process.returncode:
        raise _failure(environment, list(kept))


def _failure(environment: Environment, lines: list[str]) -> FtxError:
    """Why the environment was not made, from what the tool that failed said last."""
    said = "\n".join(lines).lower()
    begin = f"environment '{environment.name}' was not made"
    if any(sign in said for sign in FULL):
        return StorageError(f"{begin}: the disk of {_root()} is full; free some, or name another place with FTX_CACHE")
    if any(sign in said for sign in OFFLINE):
        return HubError(f"{begin}: the package index cannot be reached; connect, or set PIP_INDEX_URL to one that can")
    errors = [line for line in lines if line.lower().startswith("error")] or [line for line in lines if line.strip()]
    why = errors[-1].strip() if errors else "no reason was given"
    mend = f"; mend {environment.requirements} and run: {environment.again}" if environment.again else ""
    return NoEnvironment(f"{begin}: {why}; nothing of it was kept{mend}")
