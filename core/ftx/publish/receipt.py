"""What was published where: `publish.json`, beside the seal, one entry for each repository."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftx.atomic import write_json
from ftx.contracts import RemoteFile
from ftx.errors import VerificationError
from ftx.publish.gate import PUBLISHED


@dataclass(frozen=True)
class Published:
    """One repository as it was listed after it was sent. `license` says what was asked and answered about it."""

    publisher: str
    address: str
    repo: str
    revision: str
    public: bool
    time: str
    license: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]

    def remote_files(self) -> dict[str, RemoteFile]:
        """The files as a listing has them."""
        return {
            name: RemoteFile(int(about["size"]), about.get("sha256"), about.get("git_id"))
            for name, about in self.files.items()
        }


def read_published(folder: Path) -> list[Published]:
    """The entries, oldest first; none when nothing was published. Raises VerificationError for another's file."""
    path = folder / PUBLISHED
    if not path.is_file():
        return []
    try:
        found = [Published(**entry) for entry in json.loads(path.read_text("utf-8"))["published"]]
        for entry in found:
            entry.remote_files()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VerificationError(f"{path} is no receipt of ftx publish: {error!r}; move it away") from None
    return found


def published_at(folder: Path, address: str) -> Published | None:
    """The entry of the repository at `address`."""
    return next((entry for entry in read_published(folder) if entry.address == address), None)


def write_published(folder: Path, entry: Published) -> None:
    """Put the entry in, in place of an older one of the same repository."""
    others = [other for other in read_published(folder) if other.address != entry.address]
    write_json(folder / PUBLISHED, {"published": [asdict(one) for one in [*others, entry]]})


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
