"""A run's folder: plan.json, events.jsonl, checkpoints and the finished artefact."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.atomic import write_text
from ftx.errors import RecipeError, StorageError
from ftx.plan import Plan, plan_text

if TYPE_CHECKING:
    from ftx.console import Console

CHECKPOINTS = "checkpoints"
PREFIX = "step-"
EVENTS = "events.jsonl"
NO_LOCKS = {errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # of file systems without locks
WITNESS = "trainer.safetensors"  # what the trainer's own model said, for `ftx verify`


@dataclass
class Run:
    """One training run. Every event goes to events.jsonl and to the console.

    Under torchrun each process has one, and only the `main` one writes and shows.
    """

    folder: Path
    plan: Plan
    console: Console
    main: bool = True

    @staticmethod
    def open(plan: Plan, console: Console, *, fresh: bool, main: bool) -> Run:
        """The run of `plan`. A `fresh` one makes its folder: raises RecipeError when that holds something."""
        if fresh and main:
            _make_folder(plan)
        return Run(plan.out, plan, console, main)

    def event(self, name: str, **fields: Any) -> None:
        """Record what happened; `time` is seconds since the epoch."""
        if not self.main:
            return
        event = {"event": name, "time": round(time.time(), 3), **fields}
        try:
            with (self.folder / EVENTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(event, ensure_ascii=False) + "\n")
        except OSError as error:
            raise StorageError(f"{self.folder / EVENTS} could not be written: {error.strerror}") from None
        self.console.event(event)

    def checkpoint(self, step: int) -> Path:
        return self.folder / CHECKPOINTS / f"{PREFIX}{step:08d}"

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return checkpoints_in(self.folder)


@contextmanager
def taken(folder: Path) -> Iterator[None]:
    """Keep a run's folder, which is made, for this process; the lock falls with it.

    Raises RecipeError where another process has it, StorageError. File systems without locks have none here.
    """
    if folder.exists() and not folder.is_dir():
        yield  # refused for what it holds
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"out: {folder} cannot be made: {error.strerror}") from None
    try:
        _lock(held, folder)
        yield
    finally:
        os.close(held)


def _lock(held: int, folder: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RecipeError(f"out: another run is writing to {folder}; wait for its end, or give another --out") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise StorageError(f"out: {folder} cannot be locked: {error.strerror}") from None


def _make_folder(plan: Plan) -> None:
    folder = plan.out
    if folder.exists() and not _is_free(folder):
        held = "another run" if (folder / "plan.json").exists() else "other files"
        go_on = ", or continue with --resume auto" if checkpoints_in(folder) else ""
        raise RecipeError(f"out: {folder} holds {held}; give another --out{go_on}")
    try:
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"out: {folder} cannot be made: {error.strerror}") from None
    write_text(folder / "plan.json", plan_text(plan))
    if plan.prepared.ledgers and plan.ledger.rejected:
        write_text(folder / "rejects.jsonl", "".join(plan.prepared.rejects()))


def _is_free(folder: Path) -> bool:
    """Whether nothing would be lost: an empty folder, or a run that ended before it saved anything."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    begun = {"plan.json", EVENTS, "rejects.jsonl", WITNESS, CHECKPOINTS}
    if not names:
        return True
    if "plan.json" not in names or not names <= begun:
        return False
    kept = list((folder / CHECKPOINTS).glob("*"))
    begun_only = [path for path in kept if path.name.startswith(f".{PREFIX}")]  # of a kill while it was written
    if len(begun_only) < len(kept):
        return False
    for path in begun_only:
        shutil.rmtree(path, ignore_errors=True)
    for name in names - {CHECKPOINTS}:
        (folder / name).unlink()
    return True


def checkpoints_in(folder: Path) -> list[Path]:
    """Whole checkpoints of a run folder, oldest first."""
    return sorted((folder / CHECKPOINTS).glob(f"{PREFIX}*"))


def losses(folder: Path) -> dict[int, float]:
    """The recorded loss of every step; after a resume the later record of a step counts."""
    steps = (e for e in events(folder) if e["event"] == "step")
    return {int(e["step"]): float(e["loss"]) for e in steps}


def events(folder: Path) -> list[Mapping[str, Any]]:
    """All whole lines of events.jsonl; a line cut off by a kill is passed over."""
    found: list[Mapping[str, Any]] = []
    for line in (folder / EVENTS).read_text("utf-8", "replace").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def samples(folder: Path) -> list[Mapping[str, Any]]:
    """The answers that a run gave while it was trained, in order; after a resume the later record of a step counts."""
    asked = [e for e in events(folder) if e["event"] == "sample"]
    return list({(e["step"], e["number"]): e for e in asked}.values())
