"""Data sets of OpenXLab that no git host has: listed and fetched by its own client, in the environment `openxlab`.

The client says that all went well whatever came; what it wrote is compared with the listing, file by file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import field_validator

from ftx.atomic import hash_text, sha256_of
from ftx.errors import HubError, RecipeError
from ftx.in_environment import answered
from ftx.publish.credentials import token
from ftx_sources.snapshot import CachedSnapshot

ENVIRONMENT = "openxlab"
KEYS = ("OPENXLAB_AK", "OPENXLAB_SK")
ID = 40  # hex digits, as those of a commit


class OpenXLabClient(CachedSnapshot):
    """A data set of OpenXLab's data centre. The keys are OPENXLAB_AK and OPENXLAB_SK; ftx env create openxlab first.

    It has no revisions: what `resolved` gives is the sha256 of its listing, cut to 40 digits.
    """

    name = "openxlab_client"
    hub = "OpenXLab"

    @field_validator("revision")
    @classmethod
    def _none(cls, value: str | None) -> str | None:
        if value is not None:
            raise ValueError("cannot be named: data sets of OpenXLab's data centre have no revisions")
        return value

    def _find_commit(self) -> str:
        return hash_text(json.dumps(self._listing, sort_keys=True))[:ID]

    def _download(self, folder: Path) -> None:
        wanted = self.wanted(self._listing)
        self._asked({"do": "fetch", "repo": self.repo, "paths": wanted, "folder": str(folder)})
        for name in wanted:
            about, path = self._listing[name], folder / name
            size = path.stat().st_size if path.is_file() and not path.is_symlink() else None
            if size != about["size"] or (about["sha256"] and sha256_of(path) != about["sha256"]):
                raise HubError(
                    f"{name} of {self.repo} did not arrive as {self.hub} lists it; run the same command again"
                )

    @cached_property
    def _listing(self) -> dict[str, dict[str, Any]]:
        files = self._asked({"do": "list", "repo": self.repo})["files"]
        return {str(one["path"]): {"size": int(one["size"]), "sha256": str(one["sha256"])} for one in files}

    def _asked(self, question: Mapping[str, Any]) -> dict[str, Any]:
        keys = {key: value for key in KEYS if (value := token(key))}
        if missing := [key for key in KEYS if key not in keys]:
            raise RecipeError(
                f"the source '{self.name}' needs {' and '.join(missing)}: make a key pair on OpenXLab's page (密钥管理)"
            )
        return answered(ENVIRONMENT, question, keys)
