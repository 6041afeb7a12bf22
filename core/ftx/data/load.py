"""From a data recipe to labelled token rows, every row accounted for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from ftx.contracts import DataFormat, DataSource, Record
from ftx.data.conversation import RowError
from ftx.data.ledger import Ledger, Reject
from ftx.data.template import IGNORE, Encoded, Template
from ftx.data.tokens import Tokenizer
from ftx.errors import DataError

if TYPE_CHECKING:
    from ftx.plugins import Registry

SAMPLE = 20  # rows that detection looks at
SHOWN = 5  # rejected rows that a refusal spells out


@dataclass(frozen=True)
class DataSet:
    """One source with the format of its rows; `evidence` is what the format was recognised by."""

    source: DataSource
    format: DataFormat
    evidence: str
    system: str | None
    columns: Mapping[str, str] | None = None

    def value(self, record: Record) -> Any:
        """The record's value under the format's own names. Raises RowError when a mapped column is missing."""
        return renamed(record.value, self.columns)


def renamed(value: Any, columns: Mapping[str, str] | None) -> Any:
    """`value` with only the mapped columns, each under its new name; unchanged without `columns`."""
    if columns is None:
        return value
    if not isinstance(value, dict):
        raise RowError(f"expected named columns, found {type(value).__name__}", "leave out columns")
    for own in columns.values():
        if own not in value:
            raise RowError(f"there is no column '{own}'", f"map one of {', '.join(map(repr, value))}")
    return {name: value[own] for name, own in columns.items()}


@dataclass
class Prepared:
    """All rows of all sets, encoded, with the ledger and each set's content hash."""

    rows: list[Encoded] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    hashes: list[str] = field(default_factory=list)


def open_set(
    source: DataSource,
    format_name: str,
    system: str | None,
    registry: Registry,
    columns: Mapping[str, str] | None = None,
) -> DataSet:
    """The set with its format, found from the first rows when `format_name` is "auto". Raises DataError."""
    if format_name != "auto":
        return DataSet(source, registry.format(format_name)(), "named in the recipe", system, columns)
    try:
        sample = [renamed(record.value, columns) for record in islice(source.records(), SAMPLE)]
    except RowError as error:
        raise DataError(f"columns: {error.reason}; {error.remedy}") from None
    found = _detect(sample, registry)
    if found is None:
        raise DataError(_unknown_format(next(source.records()), registry))
    chosen, evidence = found
    if chosen.refusal:
        raise DataError(f"{next(source.records()).file}: a row {evidence}: {chosen.refusal}")
    return DataSet(source, chosen, evidence, system, columns)


def _detect(sample: list[Any], registry: Registry) -> tuple[DataFormat, str] | None:
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


def prepare(sets: list[DataSet], template: Template, tokenizer: Tokenizer, max_length: int) -> Prepared:
    """Parse, render and tokenise every row; over-long rows are cut on the right to `max_length` tokens."""
    prepared = Prepared()
    for data_set in sets:
        prepared.hashes.append(data_set.source.fingerprint())
        for record in data_set.source.records():
            _add(prepared, record, data_set, template, tokenizer, max_length)
    return prepared


def _add(
    prepared: Prepared, record: Record, data_set: DataSet, template: Template, tokenizer: Tokenizer, limit: int
) -> None:
    ledger = prepared.ledger
    try:
        row = template.encode(data_set.format.parse(data_set.value(record)).with_system(data_set.system), tokenizer)
        cut = Encoded(row.ids[:limit], row.labels[:limit])
        labelled = sum(label != IGNORE for label in cut.labels[1:])
        if not labelled:
            raise RowError(*_nothing_to_learn(len(row.ids) > limit, limit))
    except RowError as error:
        ledger.rejects.append(Reject(record.file, record.line, error.reason, error.remedy))
        return
    prepared.rows.append(cut)
    ledger.truncated += len(row.ids) > limit
    ledger.kept += len(row.ids) <= limit
    ledger.tokens += len(cut.ids)
    ledger.labelled += labelled
    ledger.longest = max(ledger.longest, len(cut.ids))


def _nothing_to_learn(too_long: bool, limit: int) -> tuple[str, str]:
    if too_long:
        return f"no answer begins within {limit} tokens", "raise data.max_length or shorten the question"
    return "no token of the row is learnt", "set loss on an answer or remove the row"


def refuse_rejects(ledger: Ledger, allowed: int) -> None:
    """Raise DataError when more rows were rejected than allowed, or none is left."""
    rejects = ledger.rejects
    if len(rejects) <= allowed and ledger.trained:
        return
    more = len(rejects) - SHOWN
    tail = [f"... and {more} more rows"] if more > 0 else []
    summary = (
        f"{len(rejects)} of {ledger.read} rows cannot be trained on and data.max_rejected is {allowed}: "
        f"mend them, or allow so many with --set data.max_rejected={len(rejects)}"
        if ledger.trained
        else f"none of the {ledger.read} rows can be trained on"
    )
    raise DataError(summary, *(r.sentence() for r in rejects[:SHOWN]), *tail)


def rejects_as_rows(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Rejected rows for rejects.jsonl."""
    return (vars(reject) for reject in ledger.rejects)
