"""Rows from one format to another, and one set cut into two."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ftx.contracts import DataFormat
from ftx.data.check import question_fingerprint
from ftx.data.conversation import RowError
from ftx.data.ledger import Ledger, Reject
from ftx.data.load import refuse_rejects
from ftx.data.sets import DataSet
from ftx.errors import RecipeError, StorageError

ENDINGS = (".jsonl", ".json")


@contextmanager
def rows_file(path: Path) -> Iterator[RowsFile]:
    """A file of rows that appears whole, with its folders, or not at all. Raises RecipeError, StorageError."""
    if path.suffix not in ENDINGS:
        raise RecipeError(f"{path} must end in {' or '.join(ENDINGS)}")
    if path.exists():
        raise RecipeError(f"{path} exists; give another name or remove it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Half a character, in a column that is not read, stays as JSON's escape for it.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            rows = RowsFile(file, array=path.suffix == ".json")
            yield rows
            rows.end()
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error.strerror}; nothing of it was kept") from None
    finally:
        with suppress(OSError):  # of a read-only file system, which holds nothing of ours
            temporary.unlink()
        for folder in made:
            with suppress(OSError):  # it holds the file, or another's
                folder.rmdir()


@dataclass
class RowsFile:
    """Writes rows as lines of JSON, or as one array."""

    file: TextIO
    array: bool
    count: int = 0

    def add(self, row: Any) -> None:
        if self.array:
            self.file.write(",\n" if self.count else "[\n")
        self.file.write(json.dumps(row, ensure_ascii=False, default=str))
        self.file.write("" if self.array else "\n")
        self.count += 1

    def end(self) -> None:
        if self.array:
            self.file.write("\n]\n" if self.count else "[]\n")


def convert(one: DataSet, to: DataFormat, out: Path, max_rejected: int) -> Ledger:
    """Write every row of a set in the format `to`. Raises DataError when more rows cannot be than allowed."""
    ledger = Ledger()
    with rows_file(out) as rows:
        for record in one.source.records():
            try:
                for row in [to.unparse(conversation) for conversation in one.conversations(record)]:
                    rows.add(row)
                ledger.kept += 1
            except RowError as error:
                ledger.reject(Reject(record.file, record.line, error.reason, error.remedy))
        refuse_rejects(ledger, max_rejected, "--max-rejected ")
    return ledger


def split(one: DataSet, train: Path, test: Path, share: float, seed: int, max_rejected: int) -> tuple[int, int]:
    """Write the rows as they are into two files, `share` of the questions into `test`; gives the rows of each.

    The draw depends on a row's question and `seed` alone: rows that ask the same never stand in both files, and a row
    stays where it was when others are added.
    """
    ledger = Ledger()
    with rows_file(train) as kept, rows_file(test) as held:
        for record in one.source.records():
            try:
                mark = question_fingerprint(one.conversations(record)[0])
                ledger.kept += 1
            except RowError as error:
                ledger.reject(Reject(record.file, record.line, error.reason, error.remedy))
                continue
            drawn = int.from_bytes(mark[:8]) ^ (seed * 0x9E3779B97F4A7C15)
            mixed = (drawn * 0xBF58476D1CE4E5B9) % (1 << 64)
            (held if mixed < share * (1 << 64) else kept).add(record.value)
        refuse_rejects(ledger, max_rejected, "--max-rejected ")
        if not held.count or not kept.count:
            raise RecipeError(f"--test {share}: all {ledger.kept} rows would fall into one file; change the share")
    return kept.count, held.count
