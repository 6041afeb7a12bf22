"""Rows of Parquet files and Excel sheets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

from ftx import DataError, RowError
from ftx_sources.opened import DataFile
from ftx_sources.text_files import Rows, refuse_twins


def parquet_rows(file: DataFile) -> Rows:
    """The rows of all row groups, counted from 1."""
    import pyarrow
    import pyarrow.parquet as parquet

    _refuse_packed(file)
    number = 0
    try:
        with parquet.ParquetFile(file.path) as opened:
            refuse_twins(file, opened.schema_arrow.names)
            for batch in opened.iter_batches(batch_size=1024):
                for value in _values(batch):
                    number += 1
                    yield number, value
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file.label} is no whole Parquet file: {str(error).splitlines()[0]}") from None


def _values(batch: Any) -> list[Any]:
    """The rows of a batch; a RowError for one that holds what Python cannot, as text that is no UTF-8."""
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            return [RowError(f"a cell does not read: {str(error).splitlines()[0]}", "write its column as text")]
    return [value for i in range(len(batch)) for value in _values(batch.slice(i, 1))]


def _refuse_packed(file: DataFile) -> None:
    if file.packing:
        raise DataError(f"{file.label}: a {file.kind} file is packed already; unpack the {file.packing} around it")


def xlsx_rows(file: DataFile) -> Rows:
    """Rows of the first sheet as text under the names of its first line; empty lines are passed over but counted.

    A row is broken when a cell holds a formula whose value was never saved, or is merged with a row above.
    """
    from openpyxl import load_workbook

    _refuse_packed(file)
    with _whole_book(file), file.path.open("rb") as raw, file.path.open("rb") as again:
        values = load_workbook(raw, read_only=True, data_only=True).worksheets[0].iter_rows(values_only=True)
        sheet = load_workbook(again).worksheets[0]  # what read_only cannot tell: formulas and merged cells
        merged = {row: str(r) for r in sheet.merged_cells.ranges for row in range(r.min_row + 1, r.max_row + 1)}
        header = ["" if cell is None else str(cell).strip() for cell in next(values, ())]
        refuse_twins(file, header)
        for number, (cells, written) in enumerate(zip_longest(values, sheet.iter_rows(min_row=2), fillvalue=()), 2):
            if any(cell is not None for cell in cells) or any(cell.value is not None for cell in written):
                yield number, _sheet_row(header, cells, written, merged.get(number))


@contextmanager
def _whole_book(file: DataFile) -> Iterator[None]:
    import zlib
    from xml.etree.ElementTree import ParseError
    from zipfile import BadZipFile

    from openpyxl.utils.exceptions import InvalidFileException

    try:
        yield
    # Each layer fails in its own way; from AttributeError on they are openpyxl's for a book of another shape.
    except (
        BadZipFile,
        InvalidFileException,
        KeyError,
        IndexError,
        OSError,
        ParseError,
        zlib.error,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:
        raise DataError(f"{file.label} is no whole XLSX file: {error}") from None


def _sheet_row(header: list[str], cells: Any, written: Any, merged: str | None) -> Any:
    if merged:
        return RowError(f"its cells {merged} are merged with the row above", "give every row cells of its own")
    row: dict[str, str] = {}
    for name, cell, origin in zip_longest(header, cells, written):
        if not name:
            continue
        if cell is None and origin is not None and isinstance(origin.value, str) and origin.data_type == "f":
            where = origin.coordinate
            return RowError(f"cell {where} holds a formula without a saved value", "save the file in a spreadsheet")
        row[name] = "" if cell is None else cell if isinstance(cell, str) else str(cell)
    return row
