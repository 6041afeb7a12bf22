"""Rows of text files, read as they come: JSON, JSON lines, CSV, TSV and plain text."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from ftx import DataError, RowError
from ftx_sources.opened import DataFile

MAX_CELL = 1 << 27  # characters; csv's own limit of 128 KiB a cell is shorter than long documents
CHUNK = 1 << 16  # characters
SPACE = re.compile(r"[ \t\r\n]*")

# The line a row begins on, and its value; a RowError for a row that is broken by itself.
Rows = Iterator[tuple[int, Any]]


def json_rows(file: DataFile) -> Rows:
    """The elements of a JSON array, or the lines of a file that only calls itself .json."""
    with file.text("") as text:
        first = _first_character(text)
    if first == "[":
        with file.text("") as text:
            yield from _Array(file, text).rows()
    elif first == "{":
        yield from _objects(file)
    else:
        yield from json_lines(file)


def _first_character(text: TextIO) -> str:
    while chunk := text.read(CHUNK):
        if stripped := chunk.lstrip():
            return stripped[0]
    return ""


def _objects(file: DataFile) -> Rows:
    """One object a line, or a single object over many lines."""
    rows = json_lines(file)
    first = next(rows)
    if not isinstance(first[1], RowError):
        yield first
        yield from rows
        return
    with file.text("") as text:
        whole = _parsed(text.read())
    if isinstance(whole, RowError):
        yield first
        yield from rows
        return
    lists = [key for key, value in whole.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(whole) == 1 and lists and not {"messages", "conversation", "conversations"} & set(lists):
        raise DataError(f"{file.label} holds one object, with the rows under '{lists[0]}': save that list by itself")
    yield first[0], whole


def json_lines(file: DataFile) -> Rows:
    """One value a line; a broken line is a broken row."""
    with file.text("\n") as text:
        for number, line in enumerate(text, 1):
            if line.strip():
                yield number, _parsed(line.rstrip("\n"))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return RowError(f"column {error.colno}: broken JSON: {error.msg}", "mend the line")
    except RecursionError:
        return RowError("column 1: broken JSON: nested too deeply", "mend the line")
    except ValueError as error:  # Python converts no number of more than 4300 digits
        return RowError(f"broken JSON: {error}", "write the number as text")


class _Array:
    """The elements of an array that is read piece by piece, with the line each begins on."""

    def __init__(self, file: DataFile, text: TextIO) -> None:
        self._file = file
        self._text = text
        self._held = ""  # what was read last, parsed up to `_at`
        self._at = 0
        self._line = 1  # where `_at` is
        self._column = 1
        self._ended = False
        self._decoder = json.JSONDecoder()

    def rows(self) -> Rows:
        self._skip_space()
        self._pass(1)  # the bracket
        while self._peek() != "]":
            line = self._line
            yield line, self._value()
            mark = self._peek()
            if mark == ",":
                self._pass(1)
                if self._peek() == "]":
                    raise self._broken("a comma before ']'")
            elif mark != "]":
                raise self._broken("expected ',' or ']'")
        self._pass(1)
        if self._peek():
            raise self._broken("extra data after the array")

    def _peek(self) -> str:
        """The next character that is no space, "" at the end."""
        self._skip_space()
        return self._held[self._at : self._at + 1]

    def _skip_space(self) -> None:
        while True:
            space = SPACE.match(self._held, self._at)
            self._pass(len(space[0]) if space else 0)
            if self._at < len(self._held) or not self._more():
                return

    def _more(self) -> bool:
        """Read on, twice as much as is held, so that a long value is not parsed over and over."""
        if self._ended:
            return False
        chunk = self._text.read(max(CHUNK, len(self._held) - self._at))
        self._ended = not chunk
        if chunk:
            self._held, self._at = self._held[self._at :] + chunk, 0
        return bool(chunk)

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._held, self._at)
            except json.JSONDecodeError as error:
                if self._more():
                    continue
                self._pass(error.pos - self._at)
                raise self._broken(error.msg) from None
            except RecursionError:
                raise self._broken("nested too deeply") from None
            except ValueError as error:
                raise self._broken(str(error)) from None
            if end < len(self._held) or not self._more():  # a number at the border may go on
                self._pass(end - self._at)
                return value

    def _pass(self, count: int) -> None:
        start, self._at = self._at, self._at + count
        lines = self._held.count("\n", start, self._at)
        self._line += lines
        self._column = self._at - self._held.rfind("\n", start, self._at) if lines else self._column + count

    def _broken(self, why: str) -> DataError:
        return DataError(f"{self._file.label}: line {self._line}, column {self._column}: broken JSON: {why}")


def csv_rows(file: DataFile) -> Rows:
    """The rows under the names of the first line; one with too few or too many cells is a broken row."""
    csv.field_size_limit(MAX_CELL)
    with file.text("") as text:
        reader = csv.reader(text, delimiter="\t" if file.kind == ".tsv" else ",", strict=True)
        try:
            header = next(reader, [])
            refuse_twins(file, header)
            before = reader.line_num
            for cells in reader:
                line, before = before + 1, reader.line_num
                if cells and len(cells) != len(header):
                    wrong = f"the row has {len(cells)} cells, the header {len(header)}"
                    yield line, RowError(wrong, "put quotes around cells that hold the delimiter")
                elif cells:
                    yield line, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise DataError(f"{file.label}: line {reader.line_num}: broken CSV: {error}") from None


def refuse_twins(file: DataFile, header: list[str]) -> None:
    """Raise DataError when two columns have one name, as one of them would be lost."""
    for name in header:
        if name and header.count(name) > 1:
            raise DataError(f"{file.label}: two columns are called '{name}'; rename one")


def paragraphs(file: DataFile) -> Rows:
    """One text a paragraph; blank lines part them."""
    start, lines = 1, list[str]()
    with file.text("\n") as text:
        for number, line in enumerate(text, 1):
            if line.strip():
                start = start if lines else number
                lines.append(line.rstrip("\r\n"))
            elif lines:
                yield start, {"text": "\n".join(lines)}
                lines = []
    if lines:
        yield start, {"text": "\n".join(lines)}
