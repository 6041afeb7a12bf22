"""The model that an app carries: it leaves as a model by itself would, proven and under a licence that its base allows.

`ftx app new` writes it in another layout than it was sealed in, and keeps in app.json what it was made of; who puts an
app together by hand takes a sealed artefact as its folder `model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ftx.artifact import MANIFEST, Artifact
from ftx.atomic import sha256_of, write_text
from ftx.checkpoint_files import read_json
from ftx.contracts import RemoteFile
from ftx.errors import VerificationError
from ftx.export.receipt import read_receipt, seal_of
from ftx.publish.gate import APP_MODEL, refuse_unproven
from ftx.publish.licence import card_head

APP = "app.json"
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
UNSAID = (None, "other")  # what an app's card says of a licence that nobody named


@dataclass(frozen=True)
class Carried:
    """`files` has the sha256 of the model's files by their paths in the app. `licence`: what the app's card names."""

    artifact: Artifact
    files: Mapping[str, str]
    licence: str | None

    def refuse_other(self, app: Path, files: Mapping[str, RemoteFile]) -> None:
        """Raise VerificationError unless the model among `files`, which are to leave, is the one that was proven."""
        for name in _of_model(files):
            if name not in self.files:
                raise VerificationError(f"{app / name} is not of the model that was verified; take it out of the app")
            if files[name].sha256 != self.files[name]:
                raise VerificationError(f"{app / name} was changed after it was verified; make the app anew")


def recorded(artifact: Artifact | None, licence: str | None, folder: Path) -> dict[str, Any]:
    """What app.json keeps of the model in `folder`, made of `artifact`; its card gets the base's licence.

    Raises VerificationError for a receipt that is none.
    """
    if licence:
        write_text(folder / "README.md", f"---\n{yaml.safe_dump({'license': licence})}---\n")
    receipt = read_receipt(artifact) if artifact else None
    return {
        "seal": seal_of(artifact.folder) if artifact else None,
        "verified": receipt is not None and receipt.passed,
        "files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in _files(folder)},
    }


def carried(app: Path, names: Sequence[str]) -> Carried | None:
    """The model among the app's files; None without weights. Raises VerificationError, ModelError."""
    if not any(_is_weights(name) for name in names):
        return None
    said = card_head(app).get("license")
    licence = None if said in UNSAID else str(said)
    kept = read_json(app / APP).get("model") if (app / APP).is_file() else None
    if isinstance(kept, dict):
        return Carried(*_of_record(app, kept), licence)
    if not (app / APP_MODEL / MANIFEST).is_file():
        raise VerificationError(
            f"{app} carries weights that nothing proves: make it of a verified result with ftx app new, or put one, "
            f"with its {MANIFEST}, into its folder {APP_MODEL}"
        )
    artifact = Artifact.open(app / APP_MODEL)
    refuse_unproven(artifact)
    sealed = {f"{APP_MODEL}/{name}": about["sha256"] for name, about in artifact.manifest["files"].items()}
    return Carried(artifact, sealed, licence)


def _of_record(app: Path, kept: Mapping[str, Any]) -> tuple[Artifact, dict[str, str]]:
    """The model as if it were its own base, whose licence its card has; and its files."""
    if kept.get("seal") is None:
        raise VerificationError(
            f"the model of {app} was no sealed result of ftx when the app was made, and what is not proven is not "
            "published; make it of one, or let it fetch the model from a hub (--set model_repo=OWNER/NAME)"
        )
    if kept.get("verified") is not True:
        raise VerificationError(
            f"the model of {app} was not verified when the app was made, and what is not proven is not published; run "
            "ftx verify on the model, then make the app anew"
        )
    files = kept.get("files")
    if not isinstance(files, dict):
        raise VerificationError(f"{app / APP} does not tell the model's files; make the app anew")
    folder = app / APP_MODEL
    artifact = Artifact(folder, {"kind": "model", "base": {"path": str(folder)}, "files": {}})
    return artifact, {f"{APP_MODEL}/{name}": str(one) for name, one in files.items()}


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _of_model(names: Mapping[str, RemoteFile]) -> list[str]:
    return [name for name in names if PurePosixPath(name).parts[0] == APP_MODEL or _is_weights(name)]


def _is_weights(name: str) -> bool:
    return any(fnmatchcase(PurePosixPath(name).name.lower(), pattern) for pattern in WEIGHTS)
