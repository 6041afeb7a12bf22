"""A look through a data set before anything is spent on it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ftx.contracts import Record
from ftx.data.conversation import Conversation, RowError
from ftx.data.images import look_at
from ftx.data.ledger import Ledger, Reject
from ftx.data.secrets import secrets_in
from ftx.data.sets import DataSet

EXAMPLES = 5  # places named for each kind of finding


@dataclass
class Finding:
    """How often something was found and where first."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.places) < EXAMPLES:
            self.places.append(place)


@dataclass
class Report:
    """What was found in a set. `unit` says what `lengths` count; `turns` counts rows by their answers."""

    format: str
    evidence: str
    unit: str
    ledger: Ledger = field(default_factory=Ledger)
    reasons: Counter[str] = field(default_factory=Counter)
    lengths: array[int] = field(default_factory=lambda: array("q"))
    turns: Counter[int] = field(default_factory=Counter)
    with_system: int = 0
    images: int = 0
    duplicates: Finding = field(default_factory=Finding)
    secrets: dict[str, Finding] = field(default_factory=dict)
    over: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "format": self.format,
            "evidence": self.evidence,
            "rows": {"read": self.ledger.read, "good": self.ledger.kept, "rejected": self.ledger.rejected},
            "reasons": dict(self.reasons.most_common()),
            "answers": {str(count): rows for count, rows in sorted(self.turns.items())},
            "with_system": self.with_system,
            "images": self.images,
            "lengths": {"unit": self.unit, **self.quantiles(), "histogram": self.histogram()},
            "over_max_length": self.over,
            "duplicates": vars(self.duplicates),
            "secrets": {kind: vars(found) for kind, found in self.secrets.items()},
        }

    def quantiles(self) -> dict[str, int]:
        """Shortest, median, 95th and 99th percentile, and longest row; and their sum."""
        ordered = sorted(self.lengths)
        if not ordered:
            return {}
        at = {"min": 0.0, "median": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
        return {name: ordered[round(q * (len(ordered) - 1))] for name, q in at.items()} | {"total": sum(ordered)}

    def histogram(self) -> list[tuple[int, int]]:
        """(upper bound, rows) of bars whose bounds double."""
        if not self.lengths:
            return []
        bars = Counter(max(0, length - 1).bit_length() for length in self.lengths)
        return [(1 << power, bars[power]) for power in range(min(bars), max(bars) + 1)]


def check(one: DataSet, *, length: Callable[[Conversation], int], unit: str, max_length: int | None = None) -> Report:
    """Read every row of a set. `length` measures a conversation in `unit`s and may raise RowError."""
    report = Report(one.format.name, one.evidence, unit)
    seen: set[bytes] = set()
    for record in one.source.records():
        try:
            conversations = one.conversations(record)
            conversations = [looked_at(conversation, one.images_in(record)) for conversation in conversations]
            measured = [length(conversation) for conversation in conversations]
        except RowError as error:
            report.ledger.reject(Reject(record.file, record.line, error.reason, error.remedy))
            report.reasons[error.reason] += 1
            continue
        report.ledger.kept += 1
        for conversation, tokens in zip(conversations, measured, strict=True):
            report.over += max_length is not None and tokens > max_length
            _note(report, conversation, tokens, record, seen)
    return report


def looked_at(conversation: Conversation, folder: Path) -> Conversation:
    """The conversation with its pictures looked at. Raises RowError."""
    return conversation.with_pictures({name: look_at(folder, name) for name in conversation.images})


def _note(report: Report, conversation: Conversation, length: int, record: Record, seen: set[bytes]) -> None:
    place = f"{record.file}: row {record.line}"
    report.lengths.append(length)
    report.turns[sum(message.role == "assistant" for message in conversation.messages)] += 1
    report.with_system += conversation.messages[0].role == "system"
    report.images += len(conversation.images)
    mark = fingerprint(conversation)
    if mark in seen:
        report.duplicates.add(place)
    seen.add(mark)
    for kind in {kind for message in conversation.messages for kind in secrets_in(message.content)}:
        report.secrets.setdefault(kind, Finding()).add(place)


def fingerprint(conversation: Conversation) -> bytes:
    """16 bytes that rows of the same messages share."""
    return _digest(f"{m.role}\0{m.content}\0{m.images}\0{m.tool_calls}\1" for m in conversation.messages)


def question_fingerprint(conversation: Conversation) -> bytes:
    """16 bytes that rows with the same first question share, whatever the answer."""
    return _digest(m.content.strip() for m in conversation.messages if m.role in ("user", "text"))


def _digest(parts: Iterable[str]) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass"))
    return digest.digest()
