"""What a user can do wrong, one class and one exit code per cause.

A `FtxError` ends the program with its sentence and its code, without a traceback. Anything else is a bug
and keeps its traceback (exit code 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class FtxError(Exception):
    """A mistake or an obstacle the user can act on. `problems` holds one sentence each."""

    exit_code = 2
    kind = "usage"

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems: Sequence[str] = problems


class RecipeError(FtxError):
    """The recipe, a flag or a folder it names is wrong."""

    kind = "recipe"


class ModelError(FtxError):
    """A model folder cannot be read as what it claims to be."""

    kind = "model"


class DataError(FtxError):
    """Training data is refused."""

    exit_code = 3
    kind = "data"


class OutOfMemory(FtxError):
    """The device has not enough memory for the plan."""

    exit_code = 4
    kind = "memory"


def lacks_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a GPU or of the host, of whose lack torch tells in a plain RuntimeError.

    torch is not imported here: its errors are known by name and words.
    """
    named = type(error).__name__ == "OutOfMemoryError"
    return named or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


class HubError(FtxError):
    """A hub or the network to it refuses: no such repository or revision, no permission, no connection."""

    exit_code = 5
    kind = "hub"


class RepositoryWanted(HubError):
    """A host tells nothing of a token before it is told of a repository of the user's."""


class Interrupted(FtxError):
    """Stopped by SIGINT or SIGTERM after a checkpoint was saved."""

    exit_code = 6
    kind = "interrupted"


class VerificationError(FtxError):
    """A result is not what it was recorded or promised to be."""

    exit_code = 7
    kind = "verification"


class Stalled(FtxError):
    """Another process of the run ended or answers no more."""

    exit_code = 8
    kind = "stalled"


class TrainingError(FtxError):
    """Training cannot go on: a loss or gradient that is not finite."""

    exit_code = 9
    kind = "training"


class StorageError(FtxError):
    """A file could not be read or written (disk full, quota, permission). What was whole before still is."""

    exit_code = 10
    kind = "storage"


# A second Ctrl-C stops at once, as shells expect of SIGINT.
STOPPED_AT_ONCE = 130


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """A clause naming the closest known name, or all of them when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(wrong, known, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + ", ".join(known) if known else "none is known"
