"""The files as they will lie on the hub, put together in a folder beside the artefact.

Large files are hard links, so that this takes next to no space. What describes the model is written anew: a path of
this machine says nothing to others, and tells them what they need not know.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ftx.artifact import MANIFEST, RECEIPT, Artifact
from ftx.atomic import sha256_of, write_json, write_text
from ftx.contracts import Publisher, RemoteFile
from ftx.errors import RecipeError, StorageError, VerificationError
from ftx.export.receipt import Receipt, read_receipt, seal_of, write_receipt
from ftx.publish import card
from ftx.publish.licence import Licence, card_head

CONFIGS = ("adapter_config.json", "config.json", "tokenizer_config.json")
SMALL = 10 << 20  # bytes; up to here git's own id of a file is computed too


@dataclass(frozen=True)
class Subject:
    """What is published. `names` are the files of `folder` that leave; `artifact` is None for an app."""

    folder: Path
    kind: str
    names: tuple[str, ...]
    artifact: Artifact | None

    @property
    def places(self) -> list[str]:
        """Paths of this machine that the files may name."""
        found = [str(self.folder.resolve()), str(Path.home())]
        found += _places_of_base(self.artifact) if self.artifact else []
        return [place for place in found if place not in ("/", ".", "")]


def render(
    subject: Subject, publisher: Publisher, repo: str, base_repo: str | None, licence: Licence | None, out: Path
) -> dict[str, RemoteFile]:
    """Fill the empty folder `out`; what it then holds. Raises VerificationError for files that are not as sealed."""
    for name in subject.names:
        place(subject.folder / name, out / name)
    files = measured(out)
    if subject.artifact and licence:
        _refuse_changed(subject.artifact, files)
        _describe(subject.artifact, publisher, repo, base_repo, licence, out, files)
    publisher.render(repo, subject.kind, out)
    for name in publisher.keeps:
        (out / name).unlink(missing_ok=True)
    files = {name: about for name, about in files.items() if name not in publisher.keeps}
    return _again(out, files)


def place(source: Path, target: Path) -> None:
    """A copy, which nobody changes once it is checked; of a large file a hard link, which takes no space."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_size > SMALL:
        linked(source.resolve(), target)
    else:
        shutil.copyfile(source, target)


def linked(source: Path, target: Path) -> None:
    """A hard link; between file systems a copy, when there is room for it. Raises StorageError."""
    try:
        os.link(source, target)
    except OSError:
        free, need = shutil.disk_usage(target.parent).free, source.stat().st_size
        if free < need:
            raise StorageError(
                f"publishing needs {need / 1e9:.1f} GB of space in {target.parent} and {free / 1e9:.1f} GB are free; "
                "free some and run the same command again"
            ) from None
        shutil.copyfile(source, target)


def _refuse_changed(artifact: Artifact, files: Mapping[str, RemoteFile]) -> None:
    for name, sealed in artifact.manifest["files"].items():
        if files[name].sha256 != sealed["sha256"]:
            raise VerificationError(f"{artifact.folder / name} was changed while it was read; make it anew")


def _again(out: Path, known: Mapping[str, RemoteFile]) -> dict[str, RemoteFile]:
    """What lies in `out`; large files are as they were `known`, being written by nobody here."""
    large = {name: about for name, about in known.items() if about.size > SMALL}
    return measured(out, large)


def measured(folder: Path, known: Mapping[str, RemoteFile] | None = None) -> dict[str, RemoteFile]:
    """Every file under `folder` with its size, sha256 and, when it is small, git's id; `known` ones are not read."""
    found = dict(known or {})
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in found:
            size = path.stat().st_size
            git_id = git_id_of(path.read_bytes()) if size <= SMALL else None
            found[name] = RemoteFile(size, sha256_of(path), git_id)
    return dict(sorted(found.items()))


def git_id_of(content: bytes) -> str:
    """What git calls a file of that content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _places_of_base(artifact: Artifact) -> list[str]:
    """The paths of the base; none in the seal of a download, which calls the base as hubs do."""
    return [str(artifact.base), str(artifact.base.resolve())] if artifact.base.is_absolute() else []


def base_name(artifact: Artifact, given: str | None) -> str | None:
    """The base's name on Hugging Face: as given, or as the cache it was read from or the seal of a download tells."""
    if given:
        owner, slash, name = given.partition("/")
        if not (slash and owner and name) or "/" in name or given.startswith((".", "/")):
            raise RecipeError(f"--base {given}: write the base as OWNER/NAME, as it is called on the hub")
        return given
    for part in artifact.base.parts:
        if part.startswith("models--") and part.count("--") == 2:
            return "/".join(part.split("--")[1:])
    if not artifact.base.is_absolute() and len(artifact.base.parts) == 2:
        return str(artifact.base)
    if artifact.kind == "adapter":
        raise RecipeError(
            f"the base of this adapter is a folder, {artifact.base.name}, which others cannot find: name it as it is "
            "called on the hub with --base OWNER/NAME"
        )
    return None


def _describe(
    artifact: Artifact,
    publisher: Publisher,
    repo: str,
    base_repo: str | None,
    licence: Licence,
    out: Path,
    files: Mapping[str, RemoteFile],
) -> None:
    known = base_repo or artifact.base.name
    swaps = dict.fromkeys(_places_of_base(artifact), known)
    for name in CONFIGS:
        _rewrite(out / name, swaps, known)
    receipt = _told_elsewhere(read_receipt(artifact), swaps)
    front = card.head(artifact, base_repo, licence, card_head(artifact.base) or card_head(artifact.folder))
    text = card.card_text(publisher.front_matter(front), artifact, repo, receipt)
    _write(out / "README.md", text)
    _seal_anew(artifact, known, swaps, licence, receipt, out, files)


def _rewrite(path: Path, swaps: Mapping[str, str], base: str) -> None:
    """Take the paths out of a config; the link is cut first, so that the artefact keeps its own."""
    if not path.is_file():
        return
    config = json.loads(path.read_text("utf-8"))
    named = {key: base for key in ("base_model_name_or_path",) if key in config}
    changed = {**portable(config, swaps), **named}
    if changed != config:
        path.unlink()
        write_json(path, changed)


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    write_text(path, text)


def _seal_anew(
    artifact: Artifact,
    base: str,
    swaps: Mapping[str, str],
    licence: Licence,
    receipt: Receipt | None,
    out: Path,
    known: Mapping[str, RemoteFile],
) -> None:
    """The seal of what is sent: it names the seal it was made from, and its receipt goes along under the new one.

    Only descriptions were changed: every file that a model answers from has the sha256 that was verified.
    """
    for name in (MANIFEST, RECEIPT):
        (out / name).unlink(missing_ok=True)
    files = {name: {"size": f.size, "sha256": f.sha256} for name, f in _again(out, known).items()}
    facts = {key: value for key, value in artifact.manifest.items() if key != "files"}
    manifest = {
        **portable(facts, swaps),
        "base": {**artifact.manifest["base"], "path": base},
        "license": asdict(licence),
        "published_from": seal_of(artifact.folder),
        "files": files,
    }
    _write(out / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1))
    if receipt:
        write_receipt(out, replace(receipt, seal=seal_of(out)))


def _told_elsewhere(receipt: Receipt | None, swaps: Mapping[str, str]) -> Receipt | None:
    """The receipt without paths of this machine: forms and pictures are named by folders."""
    if receipt is None:
        return None
    forms = [portable(form, swaps) for form in receipt.forms]
    probes = [replace(probe, image=portable(probe.image, swaps)) for probe in receipt.probes]
    return replace(receipt, probes=probes, forms=forms)


def portable(value: Any, swaps: Mapping[str, str]) -> Any:
    """The value without paths of this machine: known ones by their names elsewhere, others by their last part."""
    if isinstance(value, Mapping):
        return {key: portable(one, swaps) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [portable(one, swaps) for one in value]
    if not isinstance(value, str):
        return value
    for path, name in swaps.items():
        if len(path) > 1:
            value = value.replace(path, name)
    # A path has two parts or more: "/" and "/no_think" are words.
    local = (value.startswith(("~/", "../")) or (value.startswith("/") and value.count("/") > 1)) and "\n" not in value
    return PurePosixPath(value).name if local else value
