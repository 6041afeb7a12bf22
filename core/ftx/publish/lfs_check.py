"""Whether objects lie in the store of a Git LFS host. git-lfs takes some refusals (422) for success, so it is asked."""

from __future__ import annotations

import base64
import json
import os
import ssl
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

TYPE = "application/vnd.git-lfs+json"
AT_ONCE = 100  # objects a question, as git-lfs itself asks
TIMEOUT = 60  # seconds


class _Stay(HTTPRedirectHandler):
    """Follows no redirect: the token is for the host that was named."""

    def redirect_request(self, *about: Any) -> None:
        return None


def missing(url: str, user: str, secret: str | None, sizes: Mapping[str, int]) -> list[str]:
    """Those objects, sizes in bytes by sha256, that the host of the repository `url` cannot give.

    Raises OSError (urllib's HTTPError and URLError among them) when it cannot be asked, ValueError for no LFS answer.
    """
    names = list(sizes)
    lacking: list[str] = []
    for start in range(0, len(names), AT_ONCE):
        asked = [{"oid": oid, "size": sizes[oid]} for oid in names[start : start + AT_ONCE]]
        given = {str(one.get("oid")) for one in _answer(url, user, secret, asked) if "error" not in one}
        lacking += [str(one["oid"]) for one in asked if one["oid"] not in given]
    return lacking


def _answer(url: str, user: str, secret: str | None, objects: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    head = {"Accept": TYPE, "Content-Type": TYPE}
    if secret:
        head["Authorization"] = f"Basic {base64.b64encode(f'{user}:{secret}'.encode()).decode()}"
    body = {"operation": "download", "transfers": ["basic"], "objects": objects}
    request = Request(f"{url}/info/lfs/objects/batch", json.dumps(body).encode(), head)  # noqa: S310 (checked before)
    trusted = ssl.create_default_context(cafile=os.environ.get("GIT_SSL_CAINFO"))
    with build_opener(_Stay, HTTPSHandler(context=trusted)).open(request, timeout=TIMEOUT) as answer:
        found = json.load(answer)
    if not isinstance(found, dict) or not isinstance(found.get("objects"), list):
        raise ValueError("it is no answer of Git LFS")
    return [one for one in found["objects"] if isinstance(one, dict)]
