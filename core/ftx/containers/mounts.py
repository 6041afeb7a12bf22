"""Which folders of the host a command line needs inside, each at its own path, read-only where it is only read.

The folder that the command is started in is there to be read. What the words name is looked up on the host: a file
takes its folder along, because rows name pictures beside them; a recipe, what it names; an adapter, its base; a folder
of links, what they lead to.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ftx.errors import RecipeError
from ftx.publish.road import newest
from ftx.recipe import read_recipe
from ftx.user_paths import refuse_bad_paths

MANIFESTS = {"ftx.json": ("base", "path"), "adapter_config.json": ("base_model_name_or_path",)}
# Commands that write into or beside the folders they are given, but for those of these options.
WRITE_BESIDE = (("merge",), ("verify",), ("publish",), ("app", "check"), ("app", "run"))
ONLY_READ = {"base", "probes", "data", "model", "python", "repo"}
WRITE_LAST = (("data", "convert"), ("data", "split"))  # name what they write last
READ_RECIPE = (("train",), ("plan",))  # a file of any name
ALONE = ("", "json")  # of words that are no option's value: --json takes none
RUNS = (("train",), ("quickstart",), ("eval",))  # write below runs/ where no --out says otherwise
# Folders that belong to the image, or hold too much of the host to be handed over.
OWN = {
    "bin",
    "boot",
    "dev",
    "etc",
    "home",
    "lib",
    "lib64",
    "opt",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "var",
}
# Where images have their programs.
IMAGES_OWN = (Path("/opt/ftx"), Path("/opt/environments"))
STREAMS = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))  # of each process its own
CHECKPOINTS = "checkpoints"  # in a run's folder
LINKS_DEEP = 2  # folders that are looked through for links


@dataclass(frozen=True)
class Mount:
    """A folder or file of the host that is at the same path inside."""

    path: Path
    writable: bool = False


@dataclass
class Needs:
    """What is read and what is written, gathered word by word; `texts` are all that was seen of words and recipes."""

    cwd: Path
    reads: set[Path] = field(default_factory=set)
    writes: set[Path] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)

    def named(self, text: str) -> Path | None:
        """The path that a text names, if it is there."""
        if not text or "\0" in text or len(text) > os.pathconf("/", "PC_PATH_MAX"):
            return None
        path = self.absolute(text)
        try:
            return path if path.exists() else None
        except OSError:  # a name too long for the file system, or a folder that may not be entered
            return None

    def absolute(self, text: str) -> Path:
        """The path of `text`. Raises RecipeError for one that leads through a link and up again, or is none."""
        if "\0" in text:
            raise RecipeError(f"{text!r} is no path: it holds a NUL")
        path = Path(os.path.normpath(self.cwd / text))
        if ".." in Path(text).parts and (real := os.path.realpath(self.cwd / text)) != os.path.realpath(path):
            raise RecipeError(f"{text} goes through a link and up again; write it as {real}")
        return path

    def read(self, text: str) -> None:
        """Take in what `text` names, if it names anything; of a pattern the folder that it starts from."""
        path = self.named(text)
        if path is None and glob.has_magic(text):
            path = self._start_of(text)
        if path and path not in self.reads and path.parent not in STREAMS:
            self._read(path)

    def _start_of(self, pattern: str) -> Path | None:
        # What matches lies below, pictures and all.
        parts = Path(pattern).parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        folder = self.named(str(Path(*parts[:fixed])))
        if folder and is_own(folder) and not glob.glob(pattern, root_dir=self.cwd):  # noqa: PTH207 (absolute ones too)
            return None  # a text, as a question is
        return folder

    def write(self, text: str) -> None:
        """Take in a file or folder that is to be written: the folder that holds it, and itself where it is one."""
        path = self.absolute(text)
        self.writes.add(path.parent)
        if path.is_dir():  # else a mount of what is read there would lie over it
            self.writes.add(path)

    def write_into(self, path: Path) -> None:
        """Take in a run or artefact that more is written into or beside: the run, where it is part of one."""
        self.writes |= {path, path.parent} if (path / "ftx.json").is_file() else {path}

    def go_on(self, text: str) -> None:
        """Take in the run that --resume names by its folder or by a checkpoint's, which goes on being written."""
        path = self.named(text)
        if path is None or text == "auto":
            return
        if path.parent.name == CHECKPOINTS:
            path = path.parent.parent
        if (path / CHECKPOINTS).is_dir():
            self.writes.add(path)
        else:
            self.read(text)

    def _read(self, path: Path) -> None:
        self.reads.add(path if path.is_dir() or is_own(path.parent) else path.parent)
        if path.is_file() and path.suffix in (".yaml", ".yml"):
            self.recipe(path)
        if path.is_dir():
            for folder in (path, path / "adapter"):
                self._base(folder)

    def recipe(self, path: Path) -> None:
        """Take in what a recipe names."""
        try:
            values = read_recipe(path)
        except RecipeError:  # told inside, by whoever needs it
            return
        for key, value in _leaves(values):
            self.texts.add(f"hub:{value}" if key == "repo" else value)
            if key == "out":
                self.write(value)
            else:
                self.read(value)

    def _base(self, folder: Path) -> None:
        for name, keys in MANIFESTS.items():
            with suppress(OSError, ValueError, KeyError, TypeError):
                found = json.loads((folder / name).read_text("utf-8"))
                for key in keys:
                    found = found[key]
                if isinstance(found, str) and "/" in found:
                    self.read(found)


@refuse_bad_paths()
def needed(words: list[str], cwd: Path) -> Needs:
    """What the command line `words` reads and writes, started in `cwd`. Raises RecipeError."""
    needs = Needs(cwd)
    if not is_own(cwd):  # what no word names is found there, and nothing is written that would be lost
        needs.reads.add(cwd)
    values = list(values_of(words))
    needs.texts.update(value for _, value in values)
    beside = _begins(words, WRITE_BESIDE)
    for name, value in values:
        if name == "resume":
            continue
        if name == "out":
            needs.write(value)
            continue
        needs.read(value)
        path = needs.named(value)
        if beside and path and path.is_dir() and name not in ONLY_READ:
            needs.write_into(path)
    alone = [value for name, value in values if name in ALONE]
    for path in filter(None, map(needs.named, alone[1:] if _begins(words, READ_RECIPE) else ())):
        if path.is_file():
            needs.recipe(path)
    if _begins(words, WRITE_LAST):
        needs.write(alone[-1])
    if _begins(words, (("publish",),)) and not needs.writes:
        with suppress(RecipeError):  # told inside
            needs.write_into(newest(cwd))
    if _begins(words, RUNS) and not needs.writes:
        needs.writes.add(cwd / "runs")
    for name, value in values:
        if name == "resume":
            needs.go_on(value)
    return needs


@refuse_bad_paths()
def mounts_of(needs: Needs, given: Iterable[str], caches: Iterable[Mount]) -> list[Mount]:
    """The folders to mount, outer ones first; `given` are those that --mount names, as PATH or PATH:rw.

    Raises RecipeError for a folder that is the image's or too much of the host, or that is not there or closed.
    """
    wanted: dict[Path, bool] = {}
    for text in given:
        name, _, mode = text.rpartition(":") if text.endswith((":rw", ":ro")) else (text, "", "ro")
        path = needs.named(name)
        if path is None:
            raise RecipeError(f"--mount {text}: {needs.absolute(name)} is not there")
        wanted[path] = mode == "rw"
    for path in needs.writes:
        wanted[refuse_own(path)] = True
    for path in needs.reads:
        wanted.setdefault(refuse_own(path), False)
    for cache in caches:
        wanted[cache.path] = cache.writable or wanted.get(cache.path, False)
    for path in list(wanted):
        for target in _led_to(path):
            wanted.setdefault(target, wanted[path] and target == path.resolve())
    for path in wanted:
        if over := _lies_over(path):
            raise RecipeError(f"{path} would lie over {over}, where images have their programs; move it elsewhere")
    return _outermost(wanted)


@refuse_bad_paths()
def missing_of(mounts: Iterable[Mount]) -> list[Path]:
    """The folders that are to be written and are not there, inner ones first."""
    around = [(mount.path, *mount.path.parents) for mount in mounts if mount.writable]
    return sorted({path for paths in around for path in paths if not path.exists()}, reverse=True)


def make_folders(paths: list[Path], user: tuple[int, int]) -> None:
    """Make the folders `paths`, inner ones first, for `user`, who is to write them. Raises RecipeError."""
    ours = user[0] in (0, os.geteuid())
    if paths and not ours and os.geteuid():
        raise RecipeError(
            f"{paths[0]} is not there, and the user {user[0]}:{user[1]} could not write to what you make; run: "
            f"mkdir -p -m 777 {shlex.quote(str(paths[0]))}, or name another with --user"
        )
    for path in reversed(paths):
        try:
            path.mkdir()
            if not ours:
                os.chown(path, *user)
        except OSError as error:
            raise RecipeError(f"{path} cannot be made: {error.strerror}; name another place with --out") from None


@refuse_bad_paths()
def refuse_unreadable(mounts: Iterable[Mount], user: tuple[int, int], groups: Iterable[int] = ()) -> None:
    """Raises RecipeError for a mount that the user inside, in `groups` beside their own, could not read or write."""
    for mount in mounts:
        if user[0] and not _may(mount, user[0], {user[1], *groups}):
            what = "write to" if mount.writable else "read"
            letters = "rwX" if mount.writable else "rX"
            raise RecipeError(
                f"{mount.path} is not open to the user {user[0]}:{user[1]} inside, who must {what} it; run: "
                f"chmod -R o+{letters} {mount.path}, or name another with --user"
            )


def values_of(words: list[str]) -> Iterator[tuple[str, str]]:
    """The values among `words`, each with the name of its option, dotted for --set, or "" where it stands alone."""
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals:
                continue
        else:
            value = word
        setting = re.fullmatch(r"([a-z_][\w.]*)=(.*)", value, re.DOTALL) if name == "set" else None
        yield (setting[1], setting[2]) if setting else (name, value)
        name = ""


def _begins(words: list[str], several: Iterable[tuple[str, ...]]) -> bool:
    return any(tuple(words[: len(one)]) == one for one in several)


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts in a recipe, with the key or the keys' last."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, key)


def is_own(path: Path) -> bool:
    """Whether a folder is the image's, or holds too much of the host to be handed over."""
    home = Path.home()
    return path in (Path("/"), home, Path(os.path.realpath(home))) or (path.parent == Path("/") and path.name in OWN)


def refuse_own(path: Path) -> Path:
    """The path. Raises RecipeError for a folder that is not handed over."""
    if is_own(path):
        raise RecipeError(f"{path} is not handed to a container as a whole; work in a folder below it")
    return path


def _lies_over(path: Path) -> Path | None:
    """What of the image a mount of `path` would cover."""
    return next((own for own in IMAGES_OWN if path.is_relative_to(own) or own.is_relative_to(path)), None)


def _led_to(path: Path) -> Iterator[Path]:
    """Where links lead to: the path's own, and those in it that leave it.

    Links in it that lead to nothing, round in circles or to what is not handed over lead nowhere inside.
    """
    try:
        real = path.resolve()
    except (OSError, RuntimeError):
        raise RecipeError(f"{path} is a link that leads nowhere; name what it should lead to") from None
    if real != path:
        yield refuse_own(real)
    for link in _links(path, LINKS_DEEP):
        try:
            target = link.resolve()
            there = target.exists()
        except (OSError, RuntimeError):
            continue
        if not there or is_own(target) or _lies_over(target):
            continue
        folder = target if target.is_dir() else target.parent
        if not folder.is_relative_to(real):
            yield target if is_own(folder) else folder


def _links(folder: Path, deep: int) -> Iterator[Path]:
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                yield Path(entry.path)
            elif deep > 1 and entry.is_dir():
                yield from _links(Path(entry.path), deep - 1)


def _outermost(wanted: dict[Path, bool]) -> list[Mount]:
    """Without those that lie in another of the same kind."""
    kept: list[Mount] = []
    for path, writable in sorted(wanted.items()):
        around = [mount for mount in kept if path.is_relative_to(mount.path)]
        if not around or around[-1].writable != writable:
            kept.append(Mount(path, writable))
    return kept


def _may(mount: Mount, user: int, groups: set[int]) -> bool:
    about = mount.path.stat()
    bits = about.st_mode >> (6 if about.st_uid == user else 3 if about.st_gid in groups else 0)
    wanted = 4 | (2 if mount.writable else 0) | (1 if mount.path.is_dir() else 0)
    return bits & wanted == wanted
