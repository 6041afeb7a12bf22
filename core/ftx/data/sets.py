"""Data sets: a source, the format of its rows, and how that was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.contracts import DataFormat, DataSource, Record
from ftx.data.conversation import Conversation, RowError
from ftx.data.ledger import Reject
from ftx.errors import DataError

if TYPE_CHECKING:
    from ftx.plugins import Registry

SAMPLE = 20  # rows that detection looks at


@dataclass(frozen=True)
class DataSet:
    """One source with the format of its rows; `evidence` is what the format was recognised by."""

    source: DataSource
    format: DataFormat
    evidence: str
    system: str | None
    columns: Mapping[str, str] | None = None
    image_folder: Path | None = None

    def conversations(self, record: Record) -> list[Conversation]:
        """The record's conversations, nearly always one, with the set's system message. Raises RowError."""
        value = renamed(record.value, self.columns)
        conversations = self.format.parse_all(value)
        for found in conversations:
            found.refuse_strange_characters()
        return [found.with_system(self.system) for found in conversations]

    def images_in(self, record: Record) -> Path:
        """The folder that the record's image paths start from."""
        return self.image_folder or self.source.image_folder(record)


def renamed(value: Any, columns: Mapping[str, str] | None) -> Any:
    """`value` with only the mapped columns, each under its new name; unchanged without `columns`.

    Raises RowError when a column is missing, or the row was broken as it was read.
    """
    if isinstance(value, RowError):
        raise value
    if columns is None:
        return value
    if not isinstance(value, dict):
        raise RowError(f"expected named columns, found {type(value).__name__}", "leave out columns")
    for own in columns.values():
        if own not in value:
            raise RowError(f"there is no column '{own}'", f"map one of {', '.join(map(repr, value))}")
    return {name: value[own] for name, own in columns.items()}


def open_set(
    source: DataSource,
    format_name: str,
    system: str | None,
    registry: Registry,
    columns: Mapping[str, str] | None = None,
    image_folder: Path | None = None,
) -> DataSet:
    """The set with its format, found from the first rows when `format_name` is "auto". Raises DataError."""
    chosen, evidence = (
        (registry.format(format_name)(), "named in the recipe")
        if format_name != "auto"
        else _detected(source, registry, columns)
    )
    if chosen.refusal:
        raise DataError(f"{next(source.records()).file}: {evidence}: {chosen.refusal}")
    return DataSet(source, chosen, evidence, system, columns, image_folder)


def _detected(source: DataSource, registry: Registry, columns: Mapping[str, str] | None) -> tuple[DataFormat, str]:
    sample: list[Record] = []
    wrong: Reject | None = None
    for record in islice(source.records(), SAMPLE):
        try:
            sample.append(replace(record, value=renamed(record.value, columns)))
        except RowError as error:
            wrong = wrong or Reject(record.file, record.line, error.reason, error.remedy)
    if wrong and not sample:
        raise DataError(wrong.sentence())
    found = detect([record.value for record in sample], registry)
    if found is None:
        raise DataError(_unknown_format(sample[0], registry))
    return found


def detect(sample: list[Any], registry: Registry) -> tuple[DataFormat, str] | None:
    """The format of most sampled rows, with the evidence; it must know the first row or more than half of them."""
    best: tuple[int, DataFormat, str] | None = None
    for candidate in registry.formats():
        found = candidate()
        seen = [found.recognise(value) for value in sample]
        evidence = [one for one in seen if one]
        if evidence and (seen[0] or 2 * len(evidence) > len(sample)) and len(evidence) > (best[0] if best else 0):
            best = (len(evidence), found, evidence[0])
    if best is None:
        return None
    count, chosen, what = best
    return chosen, what if count == len(sample) else f"{what} in {count} of {len(sample)} rows"


def _unknown_format(first: Record, registry: Registry) -> str:
    value = first.value
    seen = "keys " + ", ".join(map(repr, value)) if isinstance(value, dict) else type(value).__name__
    known = ", ".join(f.name for f in registry.formats())
    return f"{first.file}: row {first.line} has {seen}, which is no known format ({known}); name one with format:"
