"""What the sources on hubs share: a repository pinned to one commit, its data files, and the cache for them."""

from __future__ import annotations

import json
import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import ClassVar

from pydantic import Field, field_validator

from ftx import DataError, DataSource, Record
from ftx.atomic import hash_text, sha256_of, whole_folder
from ftx.data.cache import alone, cache_root
from ftx_sources.files import READERS, Files

REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
NOT_IN_A_REVISION = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|^[-/]|/$")
SHORT = 7  # hex digits of a commit that people read
SHOWN = 5  # names a sentence spells out

# Descriptions and locks that lie beside the data in the hubs' repositories.
NO_DATA = {"README.md", "dataset_infos.json"}


class Snapshot(DataSource):
    """A hub's data set repository at one commit: the rows of its data files, file by file in the order of paths.

    `revision` is resolved once per object, so that the rows and their fingerprint are of one commit; a full
    commit id needs no network when its files are in the cache. Raises RecipeError for missing tools, HubError
    for what the hub or the network refuses, DataError for what the repository holds, StorageError for a full disk.
    """

    hub: ClassVar[str]
    repo: str = Field(description="the repository, as owner/name")
    revision: str | None = Field(None, description="a branch, tag or full commit id; default: the default branch")
    files: list[str] | None = Field(
        None, min_length=1, description="patterns of the data files to read, as train/*.jsonl; default: all of them"
    )

    @field_validator("repo")
    @classmethod
    def _owner_and_name(cls, value: str) -> str:
        if not REPO.fullmatch(value) or ".." in value:
            raise ValueError("must be owner/name")
        return value

    @field_validator("revision")
    @classmethod
    def _name_of_a_revision(cls, value: str | None) -> str | None:
        if value is not None and (not value or NOT_IN_A_REVISION.search(value)):
            raise ValueError("is no name of a branch, tag or commit")
        return value

    def resolved(self) -> str:
        """The full id (40 hex digits) of the commit that `revision` names. Raises HubError, RecipeError."""
        return self.commit

    @cached_property
    def commit(self) -> str:
        """What `resolved` gives, kept."""
        if self.revision is not None and COMMIT.fullmatch(self.revision):
            return self.revision
        return self._find_commit()

    def records(self) -> Iterator[Record]:
        for name, path in self._data():
            label = self._prefix + name
            try:
                for record in Files(path=str(path)).records():
                    yield Record(record.value, label, record.line)
            except DataError as error:
                # A place in the cache says nothing to people who know the file by its repository.
                raise DataError(*(problem.replace(str(path), label) for problem in error.problems)) from None

    def image_folder(self, record: Record) -> Path:
        return (self._folder() / record.file.removeprefix(self._prefix)).parent

    @property
    def _prefix(self) -> str:
        return f"{self.label}:"

    def fingerprint(self) -> str:
        return hash_text("".join(f"{name}\0{sha256_of(path)}\n" for name, path in self._data()))

    @property
    def label(self) -> str:
        """The repository and its commit, as messages and records name them."""
        return f"{self.repo}@{self.commit[:SHORT]}"

    @abstractmethod
    def _find_commit(self) -> str:
        """Ask the hub for the commit that `revision`, no full commit id, names."""

    @abstractmethod
    def _folder(self) -> Path:
        """The folder with the commit's data files, downloaded where it is not in the cache."""

    def _bounds(self, folder: Path) -> Iterable[Path]:
        """Where the files of the snapshot in `folder` may lie."""
        return (folder,)

    def _data(self) -> list[tuple[str, Path]]:
        """The data files read: the path in the repository and the file."""
        folder = self._folder()
        bounds = [bound.resolve() for bound in self._bounds(folder)]
        here = [(name, folder / name) for name in self.wanted(_names(folder))]
        for name, path in here:
            real = path.resolve()
            if not any(real.is_relative_to(bound) for bound in bounds):
                raise DataError(f"{self.label}: {name} leads out of the repository")
            if not real.is_file():
                raise DataError(f"{self.label}: {name} leads to no file")
        return here

    def wanted(self, names: Iterable[str]) -> list[str]:
        """Those paths of a repository that are data files to read, sorted. Raises DataError when none is."""
        names = list(names)
        for name in names:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise DataError(f"{self.label}: the path '{name}' leads out of the repository")
        data = sorted(name for name in names if _is_data(name))
        if self.files is None:
            if not data:
                raise DataError(f"{self.label} on {self.hub} holds no data files; ftx reads {', '.join(READERS)}")
            return data
        for pattern in self.files:
            if not any(fnmatchcase(name, pattern) for name in data):
                raise DataError(f"{self.label} on {self.hub} has no data file that matches '{pattern}'{_some(data)}")
        return [name for name in data if any(fnmatchcase(name, pattern) for pattern in self.files)]


class CachedSnapshot(Snapshot):
    """A snapshot in ftx's own cache, for hubs whose clients keep none that is whole or not there at all."""

    def _folder(self) -> Path:
        home = cache_root() / "hub" / self.name / self.repo.replace("/", "--")
        every = home / self.commit
        # A snapshot of some files must not pass for one of all.
        chosen = every if self.files is None else home / f"{self.commit}-{hash_text(json.dumps(self.files))[:8]}"
        for folder in (every, chosen):
            if folder.is_dir():
                return folder
        with alone(chosen):
            if not chosen.is_dir():
                with whole_folder(chosen) as folder:
                    self._download(folder)
        return chosen

    @abstractmethod
    def _download(self, folder: Path) -> None:
        """Write the commit's wanted files into the empty `folder`: regular files, no links."""


def _names(folder: Path) -> Iterator[str]:
    """Paths of the files under a folder, relative to it; folders that are links are not entered."""
    for base, _, files in os.walk(folder):
        for file in files:
            yield Path(base, file).relative_to(folder).as_posix()


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.name not in NO_DATA and path.name.lower().endswith(tuple(READERS))


def _some(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"; it has {', '.join(names[:SHOWN])}{more}"
