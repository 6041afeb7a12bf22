"""What `ftx verify` writes into an artefact: that its forms answer alike, and how they answer.

The receipt lies beside the seal, `verify.json` by name, and names the seal it speaks of by its sha256: a folder that
is sealed anew has to be verified anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ftx.artifact import MANIFEST, RECEIPT, Artifact
from ftx.atomic import sha256_of, write_json
from ftx.errors import VerificationError


@dataclass(frozen=True)
class Probed:
    """One probe and what the model itself said to it, greedily.

    `image` is "gradient", the picture that ftx draws, or a path, None for text alone. `before` are the turns before the
    question, the user's and the assistant's in turn.
    """

    question: str
    system: str | None
    image: str | None
    prompt_ids: list[int]
    answer: str
    stopped: bool
    before: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Receipt:
    """`passed` speaks of all `forms`, each {"form", "passed", "problems", "max_logit_difference" or None}."""

    seal: str
    passed: bool
    created: str
    max_new_tokens: int
    probes: list[Probed]
    forms: list[dict[str, Any]]


def seal_of(folder: Path) -> str:
    """What a receipt names the artefact in `folder` by."""
    return sha256_of(folder / MANIFEST)


def write_receipt(folder: Path, receipt: Receipt) -> None:
    write_json(folder / RECEIPT, asdict(receipt))


def read_receipt(artifact: Artifact) -> Receipt | None:
    """The artefact's receipt; None when it was never verified, or was sealed anew since.

    Raises VerificationError for a file that is no receipt.
    """
    path = artifact.folder / RECEIPT
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text("utf-8"))
        receipt = Receipt(**{**values, "probes": [Probed(**probe) for probe in values["probes"]]})
    except (ValueError, KeyError, TypeError) as error:
        raise VerificationError(
            f"{path} is no receipt of ftx verify: {error!r}; run: ftx verify {path.parent}"
        ) from None
    return receipt if receipt.seal == seal_of(artifact.folder) else None
