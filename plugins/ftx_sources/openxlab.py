"""Data sets in git repositories: OpenXLab's own host, or any other that serves git, with or without Git LFS."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from ftx.atomic import sha256_of
from ftx.errors import DataError, FtxError, HubError, RecipeError, StorageError, did_you_mean
from ftx.git_token import LOOPBACK, USER, for_command, own_environment
from ftx.publish.credentials import credential, scrub
from ftx.publish.git_lfs import POINTER, POINTER_SIZE
from ftx_sources.snapshot import CachedSnapshot

LINK = "120000"  # git's mode of a symbolic link
LINKS_IN_A_ROW = 8
OPTIONS = (
    "credential.helper=",  # a helper of the user's might store the token
    "core.hooksPath=/dev/null",
    "protocol.version=2",  # lets a single commit be fetched from hosts that otherwise serve branches only
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",  # seconds below 1000 bytes a second until a connection counts as dead
)
# What git and Git LFS print, in small letters, without the address.
UNAUTHORISED = (
    "authentication failed",
    "authentication required",
    "authorization error",
    "could not read username",
    "could not read password",
    "error: 401",
    "error: 403",
    "askpass",
    "credentials",
)
NO_COMMIT = ("not our ref", "unadvertised object", "remote ref")
NO_REPOSITORY = ("not found", "not appear to be a git repository", "does not exist", "error: 404")
NO_CONNECTION = ("unable to access", "could not resolve", "connection", "timed out", "rpc failed", "hung up")


class OpenXLab(CachedSnapshot):
    """A data set in a git repository on OpenXLab, or on another git host.

    The token is OPENXLAB_TOKEN, with OPENXLAB_USER for the user name; git alone is handed it, through its environment.
    """

    name = "openxlab"
    hub = "OpenXLab"
    host: str = Field("https://code.openxlab.org.cn", description="the git host; the repository is HOST/owner/name.git")

    @field_validator("host")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("https", "http", "file") or not (parts.netloc or parts.scheme == "file"):
            raise ValueError("must begin with https://, http:// or file://")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("holds more than an address; the token belongs into OPENXLAB_TOKEN")
        return value.rstrip("/")

    @property
    def url(self) -> str:
        """The repository's address, without user and token."""
        return f"{self.host}/{self.repo}.git"

    def _find_commit(self) -> str:
        with self._git() as git:
            listing = git.text("ls-remote", "--quiet", self.url)
        refs: dict[str, str] = {}
        for line in listing.splitlines():
            commit, _, ref = line.partition("\t")
            refs[ref] = commit
        wanted = self.revision
        if wanted is None:
            if "HEAD" not in refs:
                raise HubError(f"{self.repo} on {self.host} has no commits")
            return refs["HEAD"]
        # As git itself prefers them; ^{} is the commit that an annotated tag stands for.
        for ref in (wanted, f"refs/tags/{wanted}^{{}}", f"refs/tags/{wanted}", f"refs/heads/{wanted}"):
            if ref in refs:
                return refs[ref]
        known = [ref.split("/", 2)[2] for ref in refs if ref.startswith(("refs/heads/", "refs/tags/"))]
        near = did_you_mean(wanted, [name for name in known if not name.endswith("^{}")])
        raise HubError(f"{self.repo} has no revision '{wanted}' on {self.host}; {near}")

    def _download(self, folder: Path) -> None:
        with TemporaryDirectory(prefix=".git-", dir=folder.parent) as work, self._git(Path(work)) as git:
            git.text("init", "--quiet", "--bare", "--template=", ".")
            git.text("remote", "add", "origin", self.url)
            git.text("fetch", "--quiet", "--depth=1", "--no-tags", "origin", self.commit)
            # Git LFS finds the settings of a repository through HEAD.
            git.text("update-ref", "--no-deref", "HEAD", self.commit)
            tree = _tree(git.text("ls-tree", "-r", "-z", self.commit))
            for name in self.wanted(tree):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self._write(git, self._blob(git, tree, name), target)

    def _blob(self, git: _Git, tree: Mapping[str, _Entry], name: str) -> str:
        """The object with the content of the file `name`, which may be a link to another file of the tree."""
        place = name
        for _ in range(LINKS_IN_A_ROW):
            entry = tree.get(place)
            if entry is None:
                raise DataError(f"{self.label}: {name} leads to no file")
            if entry.mode != LINK:
                return entry.blob
            place = posixpath.normpath(posixpath.join(posixpath.dirname(place), git.text("cat-file", "-p", entry.blob)))
            if place.startswith(("/", "..")):
                raise DataError(f"{self.label}: {name} leads out of the repository")
        raise DataError(f"{self.label}: {name} is a link to itself")

    def _write(self, git: _Git, blob: str, target: Path) -> None:
        """The content as it was committed, so that no attribute or setting of git's changes line ends."""
        with target.open("wb") as file:
            git.into(file, "cat-file", "blob", blob)
        if target.stat().st_size > POINTER_SIZE:
            return
        text = target.read_bytes()
        pointer = POINTER.fullmatch(text)
        if pointer is None:
            return
        if not git.has_lfs():
            raise RecipeError(f"{self.repo} keeps its files in Git LFS: install git-lfs")
        with target.open("wb") as file:
            git.into(file, "lfs", "smudge", "--", target.name, given=text)
        if sha256_of(target) != pointer[1].decode():
            raise HubError(f"{self.label}: a file arrived damaged from Git LFS of {self.host}; try again")

    @contextmanager
    def _git(self, folder: Path | None = None) -> Iterator[_Git]:
        """git, working in `folder`, with the token at hand. Raises RecipeError when it is not installed."""
        if shutil.which("git") is None:
            raise RecipeError(f"the source '{self.name}' needs git: install it")
        parts = urlsplit(self.host)
        found = credential("OPENXLAB_TOKEN", self.host, "OPENXLAB_USER")
        secret = found.token if found else None
        user = found.user if found else os.environ.get("OPENXLAB_USER")
        if secret and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise RecipeError(f"OPENXLAB_TOKEN would go to {self.host} in clear: use https")
        with TemporaryDirectory(prefix="ftx-git-") as private:
            environment = own_environment(Path(private), parts.netloc, user or USER, secret)
            yield _Git(self, folder or Path(private), environment, secret)

    def refusal(self, command: str, said: str, token: str | None) -> FtxError:
        """The sentence for what git printed when a command failed."""
        # Names in the address are the user's and may hold any of the words looked for.
        low = said.lower().replace(self.url.lower(), "")
        why = _line(scrub(said, token))
        if "no space left" in low or "quota exceeded" in low:
            return StorageError(f"{self.repo} could not be kept in the cache: no space left on the disk")
        if any(sign in low for sign in UNAUTHORISED):
            return self._unauthorised(token)
        if command == "lfs":
            return HubError(f"Git LFS of {self.host} does not give a file of {self.repo}: {why}")
        if any(sign in low for sign in NO_COMMIT):
            return HubError(
                f"{self.repo} has no commit {self.revision or 'HEAD'} on {self.host}, or the host gives no single ones"
            )
        if any(sign in low for sign in NO_REPOSITORY):
            return HubError(f"there is no repository {self.repo} on {self.host}")
        if any(sign in low for sign in NO_CONNECTION):
            return HubError(f"{self.host} cannot be reached for {self.repo}: {why}")
        return HubError(f"git could not read {self.repo} from {self.host}: {why}")

    def _unauthorised(self, token: str | None) -> HubError:
        if not token:
            return HubError(f"{self.repo} on {self.host} does not exist or is private: set OPENXLAB_TOKEN")
        return HubError(
            f"{self.host} refuses access to {self.repo} with this token: check OPENXLAB_USER and OPENXLAB_TOKEN"
        )


@dataclass(frozen=True)
class _Entry:
    """A file of a tree: git's mode and the id of its content."""

    mode: str
    blob: str


@dataclass(frozen=True)
class _Git:
    """git in a folder of its own, for one source."""

    source: OpenXLab
    folder: Path
    environment: Mapping[str, str]
    token: str | None

    def text(self, *arguments: str) -> str:
        """What the command prints. Raises the source's refusal when it fails."""
        return self._run(arguments, subprocess.PIPE, None).decode("utf-8", "surrogateescape")

    def into(self, file: IO[bytes], *arguments: str, given: bytes | None = None) -> None:
        """Write what the command prints into `file`; it reads `given`."""
        self._run(arguments, file, given)

    def has_lfs(self) -> bool:
        try:
            self.text("lfs", "version")
        except FtxError:
            return False
        return True

    def _run(self, arguments: tuple[str, ...], out: int | IO[bytes], given: bytes | None) -> bytes:
        options = [word for option in OPTIONS for word in ("-c", option)]
        done = subprocess.run(
            ["git", *options, *arguments],
            cwd=self.folder,
            env=for_command(self.environment, arguments[0]),
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            stdout=out,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode:
            raise self.source.refusal(arguments[0], done.stderr.decode("utf-8", "replace"), self.token)
        return done.stdout or b""


def _tree(listing: str) -> dict[str, _Entry]:
    """The files in the output of ls-tree -z, by path; other repositories within are left out."""
    tree = {}
    for line in filter(None, listing.split("\0")):
        about, name = line.split("\t", 1)
        mode, kind, blob = about.split()
        if kind == "blob":
            tree[name] = _Entry(mode, blob)
    return tree


def _line(said: str) -> str:
    """The sentence that says most in git's complaints: the first that calls itself an error, else the last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(fatal|error)\b", line, re.IGNORECASE)]
    chosen = (errors or lines[-1:] or ["it gave no reason"])[0]
    return chosen.removeprefix("fatal: ").removeprefix("error: ")
