"""Fetching a repository from a hub: every file compared with the listing, the folder there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ftx.artifact import Artifact
from ftx.checkpoint_files import read_json
from ftx.contracts import Publisher, RemoteFile
from ftx.errors import HubError, RecipeError, StorageError, VerificationError
from ftx.plugins import Registry
from ftx.publish.render import measured

if TYPE_CHECKING:
    from ftx.export.verify import Finding

ADAPTER = "adapter_config.json"
# What hubs' clients keep in a folder for going on after an interruption.
CLIENTS = (".cache", ".ms_upload_cache", "._____temp", ".msc", ".mv", ".mdl")


@dataclass(frozen=True)
class Named:
    """`hub:owner/name@revision`, as recipes name a model too."""

    hub: str
    repo: str
    revision: str | None


def parsed(name: str, registry: Registry) -> Named:
    """The parts of a name. Raises RecipeError."""
    hub, colon, rest = name.partition(":")
    repo, at, revision = rest.partition("@")
    owner, slash, last = repo.partition("/")
    if not (colon and slash and owner and last) or "/" in last or ".." in repo or (at and not revision):
        raise RecipeError(f"{name}: write it as HUB:OWNER/NAME or HUB:OWNER/NAME@REVISION")
    if revision.startswith("-") or repo.startswith("-"):
        raise RecipeError(f"{name}: neither a repository nor a revision begins with '-'")
    registry.publisher(hub)
    return Named(hub, repo, revision or None)


def download(named: Named, hub: Publisher, out: Path) -> str:
    """Fetch into the folder `out`, which must not exist; the commit that was fetched.

    What a broken download left beside `out` is gone on from. Raises RecipeError, HubError, VerificationError,
    StorageError.
    """
    if out.exists():
        raise RecipeError(f"--out: {out} exists already; give another folder")
    remote = hub.listed(named.repo, named.revision)
    if remote is None:
        raise HubError(f"there is no {named.repo} on {hub.hub}, or it is private and the token may not read it")
    if not remote.files or remote.revision is None:
        raise HubError(f"{named.repo} on {hub.hub} is empty")
    _refuse_bad_names(named, hub, remote.files)
    begun = out.parent / f".{out.name}.download-{remote.revision[:12]}"
    try:
        begun.mkdir(parents=True, exist_ok=True)
        _refuse_full(begun, sum(about.size for about in remote.files.values()))
        hub.fetch(named.repo, remote, begun)
        for client in CLIENTS:
            shutil.rmtree(begun / client, ignore_errors=True)
        _compare(named, hub, begun, remote.files)
        Artifact.find(begun)
        os.rename(begun, out)
    except OSError as error:
        raise StorageError(f"{out} could not be written: {error.strerror}; run the same command again") from error
    return remote.revision


def base_of(folder: Path) -> str | None:
    """What an adapter in `folder` calls its base; None for anything else. Raises VerificationError, ModelError."""
    if not (folder / ADAPTER).is_file():
        return None
    artifact = Artifact.find(folder)
    return str(artifact.base) if artifact else str(read_json(folder / ADAPTER).get("base_model_name_or_path") or "")


def verified(folder: Path, named: Named, hub: Publisher, registry: Registry, base: Path | None = None) -> list[Finding]:
    """What `ftx verify` finds of a download. An adapter's base is fetched into `base` where it is not there yet.

    Raises RecipeError for an adapter without `base`, and what `download` and `ftx.export.proof.verify` raise.
    """
    from ftx.export.proof import verify

    called = base_of(folder)
    if called is not None and base is None:
        raise RecipeError(
            f"--verify: {folder} is whole, and an adapter of {called}: add --base FOLDER to compare it on that, which "
            f"is fetched when it is not there; now: ftx verify {folder} --base FOLDER"
        )
    if called is not None and base is not None and not base.exists():
        owner, slash, name = called.partition("/")
        if not (slash and owner and name) or "/" in name:
            raise RecipeError(f"--base {base}: it is not there, and {called!r} is no name that {hub.hub} would know")
        download(replace(named, repo=called, revision=None), hub, base)
    return verify(folder, registry, base=base if called is not None else None)


def _refuse_bad_names(named: Named, hub: Publisher, names: Iterable[str]) -> None:
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ".git" in path.parts:
            raise HubError(f"{named.repo} on {hub.hub} has a path that leads out of the folder, {name!r}: not fetched")


def _refuse_full(folder: Path, need: int) -> None:
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if need - held > free:
        raise StorageError(f"the download needs {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; free some")


def _compare(named: Named, hub: Publisher, folder: Path, listed: Mapping[str, RemoteFile]) -> None:
    """Raise VerificationError when a file is not what was listed; it is removed, to be fetched anew."""
    found = measured(folder)
    for name, about in listed.items():
        if name not in found or not found[name].same_as(about):
            (folder / name).unlink(missing_ok=True)
            raise VerificationError(
                f"{name} of {named.repo} did not arrive as {hub.hub} lists it; run the same command again"
            )
    for name in set(found) - set(listed):
        (folder / name).unlink()
