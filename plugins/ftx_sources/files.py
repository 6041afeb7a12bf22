"""Rows from local files: one file, all of a folder, those a pattern matches, or what comes through a pipe."""

from __future__ import annotations

import atexit
import glob
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from pydantic import Field, field_validator

from ftx import DataError, DataSource, Record
from ftx.atomic import hash_text, sha256_of
from ftx_sources.opened import PACKINGS, DataFile
from ftx_sources.tables import parquet_rows, xlsx_rows
from ftx_sources.text_files import Rows, csv_rows, json_lines, json_rows, paragraphs

READERS: dict[str, Callable[[DataFile], Rows]] = {
    ".json": json_rows,
    ".jsonl": json_lines,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".parquet": parquet_rows,
    ".xlsx": xlsx_rows,
    ".txt": paragraphs,
}
STDIN = "-"


class Files(DataSource):
    """Local files by their endings: .json .jsonl .csv .tsv .parquet .xlsx .txt, text also packed as .gz or .zst.

    A folder stands for all such files in it and below, hidden ones left out; a pattern such as data/*.jsonl for those
    it matches; - for standard input.
    """

    name = "files"
    path: str = Field(description="a file, a folder, a pattern, or - for standard input")
    ending: str | None = Field(None, description="jsonl, csv or another, where the name does not tell")

    @field_validator("ending")
    @classmethod
    def _known_ending(cls, value: str | None) -> str | None:
        if value is not None and f".{value.lower()}" not in READERS:
            raise ValueError(f"is none of {', '.join(ending[1:] for ending in READERS)}")
        return value

    def records(self) -> Iterator[Record]:
        found = False
        for file in self._files():
            for line, value in READERS[file.kind](file):
                found = True
                yield Record(value, file.label, line)
        if not found:
            raise DataError(f"{self.path} holds no rows")

    def fingerprint(self) -> str:
        files = self._files()
        if len(files) == 1:
            return sha256_of(files[0].path)
        return hash_text("".join(f"{file.label}\0{sha256_of(file.path)}\n" for file in files))

    def _files(self) -> list[DataFile]:
        """The files to read, in order, each known to open. Raises DataError."""
        if self.path == STDIN:
            return [_piped(self.ending)]
        path = Path(self.path)
        if path.is_dir():
            names = sorted(one for one in path.rglob("*") if one.is_file() and _is_data(one.relative_to(path)))
            if not names:
                raise DataError(f"{path} is a folder without data files; ftx reads {', '.join(READERS)}")
        elif glob.has_magic(self.path) and not path.exists():
            names = sorted(
                Path(one)
                for one in glob.glob(self.path, recursive=True)  # noqa: PTH207 (absolute patterns too)
                if Path(one).is_file()
            )
            if not names:
                raise DataError(f"no file matches {self.path}")
        else:
            names = [path]
        files = [DataFile.of(name, self.ending) for name in names]
        for file in files:
            file.check()
            if file.kind not in READERS:
                known = f"{', '.join(READERS)}, text also with {' or '.join(PACKINGS)}"
                raise DataError(f"{file.label} ends in '{file.path.suffix}'; ftx reads {known}")
        return files


def _is_data(path: Path) -> bool:
    return DataFile.of(path).kind in READERS and not any(part.startswith(".") for part in path.parts)


@cache
def _piped(named: str | None) -> DataFile:
    """Standard input, kept in a temporary file, as rows are read more than once."""
    with tempfile.NamedTemporaryFile(prefix="ftx-stdin-", delete=False) as file:
        atexit.register(Path(file.name).unlink, missing_ok=True)
        shutil.copyfileobj(sys.stdin.buffer, file)
    path = Path(file.name)
    if not path.stat().st_size:
        raise DataError("standard input is empty")
    with path.open("rb") as start:
        first = start.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    ending = named.lower() if named else {b"[": "json", b"{": "jsonl"}.get(first)
    if ending is None:
        raise DataError("standard input is no JSON; name what it is: source: {name: files, path: '-', ending: csv}")
    return DataFile(path, "standard input", f".{ending}")
