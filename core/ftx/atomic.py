"""Writes that appear whole or not at all, and hashes of what was written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ftx.errors import StorageError

CHUNK = 1 << 20  # bytes


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `target` when the block ends well, and vanishes when it does not.

    An existing `target` is replaced only at the very end. Raises StorageError when writing fails.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise _storage(target, error) from error
    try:
        yield temporary
        for path in temporary.rglob("*"):
            _sync(path)
        _open_up(temporary)
        _swap(temporary, target)
    except OSError as error:
        raise _storage(target, error) from error
    except SafetensorError as error:
        if "I/O" not in str(error):
            raise
        raise _storage(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open_up(temporary: Path) -> None:
    """Give what is written the permissions of ordinary files: some writers make them private."""
    mask = ~_umask()
    for path in (temporary, *temporary.rglob("*")):
        if path.is_symlink():  # what it points to is not ours
            continue
        path.chmod((0o777 if path.is_dir() else 0o666) & mask)


def _swap(temporary: Path, target: Path) -> None:
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
        os.rename(target, old / "old")
        os.rename(temporary, target)
        shutil.rmtree(old)
    else:
        os.rename(temporary, target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _storage(target: Path, error: OSError | SafetensorError) -> StorageError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return StorageError(f"{target} could not be written: {why}; nothing of it was kept, what was there before is whole")


def write_text(target: Path, text: str) -> None:
    """Write a text file whole, UTF-8. Raises StorageError."""
    write_bytes(target, text.encode("utf-8"))


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file whole. Raises StorageError."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise _storage(target, error) from error
    finally:
        with suppress(OSError):  # of a read-only file system, which holds nothing of ours
            temporary.unlink()


def write_json(target: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file whole, indented, as model folders have them. Raises StorageError."""
    write_text(target, json.dumps(values, ensure_ascii=False, indent=2) + "\n")


def sha256_of(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_text(text: str) -> str:
    """sha256 of a text's UTF-8 form, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def weights_fingerprint(folder: Path) -> str:
    """A quick identity of a model folder: sha256 over name, size, first and last MiB of each weight file.

    Tells one model from another without reading gigabytes; it does not prove that no byte changed.
    """
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(CHUNK))
            file.seek(max(0, size - CHUNK))
            digest.update(file.read(CHUNK))
    return digest.hexdigest()
