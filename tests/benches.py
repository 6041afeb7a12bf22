"""The three hubs on this machine, seen alike: where a fault is put, what lies there, what arrived."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest

from ftx.publish.road import SEEDS
from hub_publishing import Fault, HuggingFaceWriter, ModelScopeWriter, Publishing
from hub_servers import TOKEN, git
from lfs_server import LfsHost
from published import BASE

REPO = "ann/cats"
MANY = 99  # times: as often as a client asks


class Bench(ABC):
    """A hub with its server. `calls` are what a publishing asks of it, in their order, as patterns of requests."""

    publisher: ClassVar[str]
    hub: ClassVar[str]
    variable: ClassVar[str]
    branch: ClassVar[str]
    # name -> (method, path, what came before)
    calls: ClassVar[dict[str, tuple[str, str, str]]]
    server: Any

    def words(self, folder: Path, *more: str) -> list[str]:
        return ["publish", self.publisher, str(folder), "--repo", REPO, "--base", BASE, "--yes", "--json", *more]

    def fail(self, call: str, status: int, times: int = MANY, **how: Any) -> None:
        """Let the hub answer `status` at a call; 0 cuts the connection."""
        method, path, after = self.calls[call]
        self.server.faults = [Fault(method, path, status, times, after, **how)]

    def mend(self) -> None:
        self.server.faults = []
        self.server.asked.clear()

    @abstractmethod
    def files(self) -> dict[str, bytes] | None:
        """What the repository holds; None where there is none."""

    def left(self) -> str:
        """What a stranger finds in the repository, in words."""
        files = self.files()
        if files is None:
            return "no repository"
        names = set(files) - set(SEEDS)
        if not names:
            return "an empty repository"
        if "ftx.json" not in files:
            return "what was there before"
        sealed = json.loads(files["ftx.json"])["files"]
        arrived = {name: hashlib.sha256(files[name]).hexdigest() for name in files if name in sealed}
        whole = all(arrived.get(name) == about["sha256"] for name, about in sealed.items())
        return "all of it" if whole else "a part of it"

    @abstractmethod
    def push_between(self, name: str) -> None:
        """Someone else's commit of a file of that name."""

    @abstractmethod
    def push_without(self, name: str) -> None:
        """Someone else's commit that takes that file away."""

    @abstractmethod
    def make(self, files: dict[str, bytes]) -> None:
        """The repository, private, with these files."""

    @property
    @abstractmethod
    def stored(self) -> list[bytes]:
        """All that the server keeps."""


class Hub(Bench):
    """A hub whose client is a Python library."""

    server: Publishing

    def files(self) -> dict[str, bytes] | None:
        return self.server.current(REPO, self.branch) if REPO in self.server.refs else None

    def push_between(self, name: str) -> None:
        files = self.server.current(REPO, self.branch)
        self.server.add(REPO, {**files, name: b"theirs\n"}, self.branch)

    def push_without(self, name: str) -> None:
        files = self.server.current(REPO, self.branch)
        files.pop(name)
        self.server.add(REPO, files, self.branch)

    def make(self, files: dict[str, bytes]) -> None:
        self.server.add(REPO, files, self.branch)
        self.server.private.add(REPO)

    @property
    def stored(self) -> list[bytes]:
        contents = [c for commits in self.server.commits.values() for files in commits.values() for c in files.values()]
        return [*contents, *self.server.blobs.values(), *self.server.bodies]


class HuggingFaceBench(Hub):
    publisher = "huggingface"
    hub = "Hugging Face"
    variable = "HF_TOKEN"
    branch = "main"
    calls: ClassVar = {
        "list": ("GET", "/api/models/", ""),
        "create": ("POST", "/api/repos/create", ""),
        "card": ("POST", "/validate-yaml", ""),
        "preupload": ("POST", "/preupload/", ""),
        "batch": ("POST", "/objects/batch", ""),
        "PUT": ("PUT", "/_upload/", ""),
        "verify": ("POST", "/_verify", ""),
        "commit": ("POST", "/commit/", ""),
        "confirm": ("GET", "/api/models/", "POST .*/commit/"),
        "visibility": ("PUT", "/settings", ""),
    }

    def __init__(self) -> None:
        self.server = Publishing(HuggingFaceWriter)
        self.environment = {"HF_ENDPOINT": self.server.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


class ModelScopeBench(Hub):
    publisher = "modelscope"
    hub = "ModelScope"
    variable = "MODELSCOPE_API_TOKEN"
    branch = "master"
    calls: ClassVar = {
        "list": ("GET", "/api/v1/models/", ""),
        "create": ("POST", "/api/v1/models$", ""),
        "batch": ("POST", "/objects/batch", ""),
        "PUT": ("PUT", "/_blob/", ""),
        "commit": ("POST", "/commit/", ""),
        "confirm": ("GET", "/api/v1/models/", "POST .*/commit/"),
    }

    def __init__(self) -> None:
        self.server = Publishing(ModelScopeWriter)
        self.environment = {"MODELSCOPE_ENDPOINT": self.server.url}


class GitBench(Bench):
    """OpenXLab's git host, and any other."""

    publisher = "openxlab"
    hub = "OpenXLab"
    variable = "OPENXLAB_TOKEN"
    branch = "main"
    server: LfsHost
    settings: tuple[str, ...] = ("--set", "retries=1")
    calls: ClassVar = {
        "list": ("GET", "service=git-upload-pack", ""),
        "locks": ("POST", "/locks/verify", ""),
        "batch": ("POST", "/objects/batch", ""),
        "PUT": ("PUT", "/objects/[0-9a-f]{64}", ""),
        "verify": ("POST", "/lfs/verify", ""),
        "refs": ("GET", "service=git-receive-pack", ""),
        "commit": ("POST", "/git-receive-pack$", ""),
        "confirm": ("GET", "service=git-upload-pack", "POST .*/git-receive-pack"),
    }

    def __init__(self, root: Path) -> None:
        self.server = LfsHost(root)
        self.server.users["ann"] = (TOKEN, True)
        self.server.new(REPO)
        self.environment = {"OPENXLAB_USER": "ann"}

    def words(self, folder: Path, *more: str) -> list[str]:
        return super().words(folder, "--set", f"host={self.server.url}", *self.settings, *more)

    def files(self) -> dict[str, bytes]:
        return self.server.contents(REPO) if git(self.server.root / f"{REPO}.git", "for-each-ref") else {}

    def make(self, files: dict[str, bytes]) -> None:
        self.server.add(REPO, files, "main")

    def push_between(self, name: str) -> None:
        self._pushed({**self.files(), name: b"theirs\n"})

    def push_without(self, name: str) -> None:
        self._pushed({there: content for there, content in self.files().items() if there != name})

    def _pushed(self, files: dict[str, bytes]) -> None:
        self.server.add(REPO, files, "main")

    @property
    def stored(self) -> list[bytes]:
        return [path.read_bytes() for path in self.server.root.rglob("*") if path.is_file()]


BENCHES = {"huggingface": HuggingFaceBench, "modelscope": ModelScopeBench, "openxlab": GitBench}


@contextmanager
def bench_of(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The bench of a hub, with the environment and the token it needs."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made: Any = GitBench(tmp_path / "host") if hub == "openxlab" else BENCHES[hub]()  # type: ignore[call-arg]
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "elsewhere"))
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Ann")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "ann@example.org")
    for name, value in {**made.environment, made.variable: TOKEN}.items():
        monkeypatch.setenv(name, value)
    if hub == "huggingface":
        as_imported_now(tmp_path, monkeypatch)
    yield made
    made.server.stop()


def as_imported_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub reads its environment when it is imported, which other tests have done offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)


def host_of(url: str) -> str:
    return urlsplit(url).netloc
