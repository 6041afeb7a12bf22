"""A sealed result: a folder whose ftx.json records the plan, the data hashes and every file's sha256."""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ftx.atomic import sha256_of, write_text
from ftx.checkpoint_files import TOKENIZER_FILES
from ftx.errors import ModelError, StorageError, VerificationError

MANIFEST = "ftx.json"
RECEIPT = "verify.json"  # what `ftx verify` found: written beside the seal, after it
KINDS = ("adapter", "model", "merged")
PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "bitsandbytes")
# What makes a model folder talk and belongs to no weights: copied from the base as it is.
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    *TOKENIZER_FILES,
)


@dataclass(frozen=True)
class Artifact:
    """A folder and its manifest. `kind` is "adapter", "model" or "merged"."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def plan(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.manifest["plan"]
        return found

    @property
    def base(self) -> Path:
        """The base model's folder as it was when the artefact was made."""
        return Path(self.manifest["base"]["path"])

    @staticmethod
    def find(path: Path) -> Artifact | None:
        """The artefact in `path`, or the newest one of the run folder `path`, verified; None when there is none.

        Raises VerificationError when a file is missing or is not what was sealed.
        """
        if (path / MANIFEST).is_file():
            return Artifact.open(path)
        inside = [path / kind for kind in KINDS if (path / kind / MANIFEST).is_file()]
        if not inside:
            return None
        return Artifact.open(max(inside, key=lambda folder: (folder / MANIFEST).stat().st_mtime))

    @staticmethod
    def open(folder: Path) -> Artifact:
        """Read and verify. Raises VerificationError, ModelError, and StorageError for a file that cannot be read."""
        try:
            manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
            sealed = {str(name): (int(f["size"]), str(f["sha256"])) for name, f in manifest["files"].items()}
            known = manifest["kind"] in KINDS and isinstance(manifest["base"]["path"], str)
            if not (known and isinstance(manifest["plan"]["template"]["name"], str)):
                raise TypeError("it describes no artefact of ftx")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{folder / MANIFEST} cannot be read: {error!r}") from None
        try:
            problems = [problem for name, what in sealed.items() if (problem := _changed(folder, name, *what))]
        except OSError as error:
            raise StorageError(f"{error.filename} cannot be read: {error.strerror}") from None
        if problems:
            raise VerificationError(*problems)
        return Artifact(folder, manifest)


def family_of(artifact: Artifact | None) -> dict[str, Any]:
    """Name and options of the family that an artefact was made with; of a plain folder it is to be found."""
    return dict(artifact.plan["family"]) if artifact else {"name": "auto"}


def _changed(folder: Path, name: str, size: int, sha256: str) -> str | None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        return f"{folder / MANIFEST} names '{name}', which leaves the folder"
    if not path.is_file():
        return f"{path} is missing from the sealed artefact"
    if path.stat().st_size != size or sha256_of(path) != sha256:
        return f"{path} was changed after it was sealed (sha256 differs)"
    return None


def model_name(path: Path) -> str:
    """What the model of `path` is called: the folder's name, or the run's when the folder is one of its results."""
    folder = path.resolve()
    return folder.parent.name if folder.name in KINDS and (folder / MANIFEST).is_file() else folder.name


def seal(folder: Path, kind: str, **facts: Any) -> None:
    """Write ftx.json over all files now in `folder`. `facts` join the manifest; they must be JSON values."""
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, RECEIPT)
    }
    manifest = {
        "kind": kind,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        **facts,
        "files": files,
    }
    write_text(folder / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1))


version_of = cache(version)  # which reads a file of some hundred lines each time


def versions() -> dict[str, str]:
    """Versions of ftx, Python and the packages that do the arithmetic."""
    from ftx import __version__

    found = {"ftx": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version_of(package)
        except PackageNotFoundError:
            continue
    return found


def copy_companions(base: Path, out: Path) -> None:
    """Copy config and tokenizer files of `base`, byte for byte, and the code files its auto_map names.

    The code is carried as data so that old tools still find it; ftx never runs it.
    """
    for name in COMPANIONS:
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)
    for path in sorted(base.glob("*.py")):
        shutil.copyfile(path, out / path.name)


def write_template(out: Path, jinja: str, stop_ids: list[int]) -> None:
    """Put the trained chat template and stop ids where every engine looks for them."""
    write_text(out / "chat_template.jinja", jinja)
    path = out / "generation_config.json"
    config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    before = config.get("eos_token_id")
    known = set(before if isinstance(before, list) else [] if before is None else [before])
    if not set(stop_ids) <= known:
        config["eos_token_id"] = sorted(known | set(stop_ids))
        write_text(path, json.dumps(config, indent=2))
