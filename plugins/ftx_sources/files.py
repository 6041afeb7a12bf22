"""Rows from a local file: JSON, JSONL, CSV, Parquet, XLSX, or plain text with one row a paragraph."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from ftx import DataError, DataSource, Record
from ftx.atomic import sha256_of

MAX_CELL = 1 << 27  # characters; csv's own limit of 128 KiB a cell is shorter than long documents


class Files(DataSource):
    """A local file, read by its ending: .json .jsonl .csv .tsv .parquet .xlsx .txt."""

    name = "files"
    path: str = Field(description="the file to read")

    def records(self) -> Iterator[Record]:
        path = Path(self.path)
        _check(path)
        read = READERS.get(path.suffix.lower())
        if read is None:
            raise DataError(f"{path} ends in '{path.suffix}'; ftx reads {', '.join(READERS)}")
        found = False
        for line, value in read(path):
            found = True
            yield Record(value, str(path), line)
        if not found:
            raise DataError(f"{path} holds no rows")

    def fingerprint(self) -> str:
        _check(Path(self.path))
        return sha256_of(Path(self.path))


def _check(path: Path) -> None:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; name a file in it") from None
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}") from None
    if empty:
        raise DataError(f"{path} is empty")


def _text(path: Path) -> str:
    raw = path.read_bytes()
    if b"\x00" in raw[:4096]:
        raise DataError(f"{path} is not text: it holds NUL bytes (UTF-16? save it as UTF-8)")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        bad = len(raw) - len(error.object) + error.start  # the codec counts after a byte order mark
    if _mostly_utf8(raw):
        raise DataError(f"{path} is damaged UTF-8: byte {bad} begins no character; save it as UTF-8 again")
    try:
        return raw.decode("gb18030")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is neither UTF-8 nor GB18030: byte {error.start} fits neither; save it as UTF-8"
        ) from None


def _mostly_utf8(raw: bytes) -> bool:
    """Whether nearly all that is not ASCII reads as UTF-8: then some bytes are damaged, and it is no other encoding.

    GB18030 accepts nearly any bytes, so reading damaged UTF-8 as GB18030 would turn every character into another.
    """
    foreign = [char for char in raw.decode("utf-8", "replace") if char > "\x7f"]
    return foreign.count("\ufffd") * 10 < len(foreign)


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    text = _text(path)
    if not text.lstrip().startswith("["):
        yield from _json_lines(path)
        return
    yield from _json_array(path, text)


def _json_array(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The array's elements with the line each begins on, which json.loads would not tell."""
    decoder = json.JSONDecoder()
    at = _skip_space(text, text.index("[") + 1)
    line, counted = 1, 0
    while text[at : at + 1] != "]":
        line += text.count("\n", counted, at)
        counted = at
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise _broken(path, error.lineno, error.colno, error.msg) from None
        except RecursionError:
            raise _broken_at(path, text, at, "nested too deeply") from None
        yield line, value
        at = _skip_space(text, at)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
            if text[at : at + 1] == "]":
                raise _broken_at(path, text, at, "a comma before ']'")
        elif text[at : at + 1] != "]":
            raise _broken_at(path, text, at, "expected ',' or ']'")
    after = _skip_space(text, at + 1)
    if after < len(text):
        raise _broken_at(path, text, after, "extra data after the array")


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _broken_at(path: Path, text: str, at: int, why: str) -> DataError:
    return _broken(path, text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at), why)


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise _broken(path, number, error.colno, error.msg) from None
        except RecursionError:
            raise _broken(path, number, 1, "nested too deeply") from None


def _broken(path: Path, line: int, column: int, why: str) -> DataError:
    return DataError(f"{path}: line {line}, column {column}: broken JSON: {why}")


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    text = _text(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        before = reader.line_num
        for cells in reader:
            line, before = before + 1, reader.line_num
            if cells and len(cells) != len(header):
                raise DataError(f"{path}: line {line}: the row has {len(cells)} cells, the header {len(header)}")
            if cells:
                yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: broken CSV: {error}") from None


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet as parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for value in batch.to_pylist():
                    number += 1
                    yield number, value
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no whole Parquet file: {str(error).splitlines()[0]}") from None


def _xlsx(path: Path) -> Iterator[tuple[int, Any]]:
    import zlib
    from xml.etree.ElementTree import ParseError
    from zipfile import BadZipFile

    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with path.open("rb") as file:
            book = load_workbook(file, read_only=True, data_only=True)
            yield from _sheet(book.worksheets[0].iter_rows(values_only=True))
    # Each layer fails in its own way; a bare AttributeError is openpyxl's for a book without a sheet of cells.
    except (BadZipFile, InvalidFileException, KeyError, OSError, ParseError, zlib.error, AttributeError) as error:
        raise DataError(f"{path} is no whole XLSX file: {error}") from None


def _sheet(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
    """Rows of a sheet as text under the names of its first line; empty lines are passed over but counted."""
    header = ["" if cell is None else str(cell).strip() for cell in next(rows, ())]
    for number, cells in enumerate(rows, 2):
        if any(cell is not None for cell in cells):
            row = {name: "" if cell is None else cell for name, cell in zip(header, cells, strict=False) if name}
            yield number, {name: cell if isinstance(cell, str) else str(cell) for name, cell in row.items()}


def _paragraphs(path: Path) -> Iterator[tuple[int, Any]]:
    start, lines = 1, list[str]()
    for number, line in enumerate([*_text(path).split("\n"), ""], 1):
        if line.strip():
            start = start if lines else number
            lines.append(line.rstrip("\r"))
        elif lines:
            yield start, {"text": "\n".join(lines)}
            lines = []


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".xlsx": _xlsx,
    ".txt": _paragraphs,
}
