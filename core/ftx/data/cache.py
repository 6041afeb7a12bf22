"""Tokenised sets on disk, found again by what they were made from, shared by any number of processes."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftx.atomic import hash_text, whole_folder
from ftx.errors import StorageError

LAYOUT = 2  # to be raised when the files or their making change


def cache_root() -> Path:
    """The folder of everything that can be made again: FTX_CACHE, else `ftx` in the user's cache."""
    named = os.environ.get("FTX_CACHE")
    if named:
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "ftx"


def cached(key: Mapping[str, Any], make: Callable[[Path], None], whole: Callable[[Path], bool]) -> Path:
    """The folder that `make` fills for `key` (JSON values), made once whoever asks first.

    Others wait for it. A folder that is not `whole` is made anew. Raises StorageError.
    """
    name = hash_text(json.dumps({"layout": LAYOUT, **key}, sort_keys=True, ensure_ascii=False))
    folder = cache_root() / "tokens" / name
    with alone(folder):
        if not (folder.is_dir() and whole(folder)):
            with whole_folder(folder) as fresh:
                make(fresh)
    return folder


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Keep other processes, as the ranks of one run, from making `target` meanwhile; the lock falls with its process.

    Raises StorageError.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = (target.parent / f".{target.name}.lock").open("w")
    except OSError as error:
        why = f"{error.strerror}; name another place with FTX_CACHE"
        raise StorageError(f"the cache {target.parent} cannot be used: {why}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
