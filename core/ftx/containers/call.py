"""From what was asked of `ftx run` to a call that is checked, and to its end."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ftx import __version__
from ftx.containers import run
from ftx.containers.command import HOST, NONE, Call, ftx_words, network_of, shown, travelling
from ftx.containers.engine import ContainerError, Engine, find_engine
from ftx.containers.images import image_of
from ftx.containers.mounts import (
    Mount,
    make_folders,
    missing_of,
    mounts_of,
    needed,
    refuse_unreadable,
    values_of,
)
from ftx.containers.secret_files import refuse_secret_names, secret_files, wanted_secrets
from ftx.data.cache import cache_root
from ftx.errors import StorageError
from ftx.recipe import HUB_PATH
from ftx.user_paths import current_folder, refuse_bad_paths

if TYPE_CHECKING:
    from ftx.plugins import Registry

STDIN = ("-", "/dev/stdin")


@dataclass(frozen=True)
class Asked:
    """What a user asks for; None is left to ftx. `gpus` is "all", "none" or numbers as "0,1"."""

    words: list[str]
    image: str | None = None
    engine: str | None = None
    gpus: str | None = None
    network: str | None = None
    memory: str | None = None
    user: tuple[int, int] | None = None
    mounts: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


def show(asked: Asked, registry: Registry, say: Callable[[str], None]) -> list[str]:
    """The engine's command, of which nothing is done; in place of each token's file stands a name that says so.

    `say` gets what must be done before it.
    """
    call = _call(asked, registry)
    missing = set(missing_of(call.mounts))
    if names := [str(mount.path) for mount in call.mounts if mount.path in missing]:
        say(f"note: first make what it writes to: mkdir -p {shlex.join(names)}")
    secrets = wanted_secrets(_ftx(asked), registry, network=call.network != NONE)
    files = {name: Path(os.environ.get(f"{name}_FILE") or f"/FILE/OF/{name}") for name in secrets}
    try:
        engine = find_engine(asked.engine)
    except ContainerError:
        engine = Engine("podman" if asked.engine == "podman" else "docker", "", rootless=False)
    return shown(replace(call, secrets=files), engine)


def carry_out(asked: Asked, registry: Registry, say: Callable[[str], None]) -> int:
    """Run it; the exit code of ftx inside. `say` gets what the user should know. Raises FtxError."""
    engine = find_engine(asked.engine)
    call = _call(asked, registry)
    image = engine.image(call.image)
    if image.version not in ("", "<no value>", __version__):
        say(f"note: {image.name} holds ftx {image.version}, and this is ftx {__version__}")
    secrets = wanted_secrets(_ftx(asked), registry, network=call.network != NONE)
    made = missing_of(call.mounts)
    try:
        make_folders(made, call.user)
        inside = [Mount(path) for path in sorted(needed(_ftx(asked), call.cwd).reads)]  # some lie in what is mounted
        refuse_unreadable([*call.mounts, *inside], call.user, call.groups)
        with secret_files(secrets, call.user) as files:
            return run.run(replace(call, secrets=files), engine, image)
    finally:
        for folder in made:  # goes when nothing was written
            with suppress(OSError):
                folder.rmdir()


def _ftx(asked: Asked) -> list[str]:
    return ftx_words(asked.words)[1]


def _call(asked: Asked, registry: Registry) -> Call:
    words = _ftx(asked)
    network = network_of(words, asked.network)
    gpus = asked.gpus or ("all" if Path("/dev/nvidiactl").exists() else NONE)
    refuse_secret_names(asked.variables)
    cwd = current_folder()
    us = (os.geteuid(), os.getegid())
    user = asked.user or us
    needs = needed(words, cwd)
    caches, environment = _caches(needs.texts, network) if user == us else ([], {})  # another has none of ours
    ours = all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
    return Call(
        image=image_of(asked.image, words, registry, gpus=gpus != NONE),
        words=asked.words,
        cwd=cwd,
        user=user,
        groups=tuple(sorted({*os.getgroups()} - {us[1]})) if user == us else (),
        network=network,
        gpus=gpus,
        memory=asked.memory,
        mounts=mounts_of(needs, asked.mounts, caches),
        environment=environment,
        passed=travelling(asked.variables, registry.hub_variables()),
        terminal=ours,
        stdin=not sys.stdin.isatty() and _asks(words),
    )


def _asks(words: list[str]) -> bool:
    """Whether the command reads stdin, which others leave to the script that runs them."""
    return words[:1] in (["chat"], ["login"]) or any(value in STDIN for _, value in values_of(words))


@refuse_bad_paths()
def _caches(texts: Iterable[str], network: str) -> tuple[list[Mount], dict[str, str]]:
    """The caches that the host and the container share, and the variables that name them.

    `texts` are those of the words and of recipes, among them what is to be fetched. Of Hugging Face's cache it is the
    files alone: the login that lies beside them stays outside.
    """
    own = cache_root()
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"the cache {own} cannot be made: {error.strerror}; name another place with FTX_CACHE"
        ) from None
    caches, environment = [Mount(own, True)], {"FTX_CACHE": str(own)}
    if any(HUB_PATH.fullmatch(text) for text in texts):
        home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface")
        hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").absolute()
        if hub.is_dir() or network == HOST:
            caches.append(Mount(hub, network != NONE))
            environment["HF_HUB_CACHE"] = str(hub)
    return caches, environment
