"""The account of a data set: rows read = kept + truncated + rejected, always."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

REMEMBERED = 20  # rejects held in memory; all of them are in rejects.jsonl


@dataclass(frozen=True)
class Reject:
    """One row that is not trained on, where it stood, why, and what to do about it."""

    file: str
    line: int
    reason: str
    remedy: str

    def sentence(self) -> str:
        return f"{self.file}: row {self.line}: {self.reason}; {self.remedy}"


@dataclass
class Ledger:
    """Counts of rows, and of the samples they make: a row that is split makes several.

    `answers` counts learnt answers whose stop token was proven; `tokens` and `labelled` count the samples' tokens and
    those that are learnt; `longest` is the longest sample.
    """

    kept: int = 0
    truncated: int = 0
    rejected: int = 0
    samples: int = 0
    answers: int = 0
    tokens: int = 0
    labelled: int = 0
    longest: int = 0
    rejects: list[Reject] = field(default_factory=list)

    @property
    def read(self) -> int:
        return self.kept + self.truncated + self.rejected

    @property
    def trained(self) -> int:
        return self.kept + self.truncated

    def reject(self, reject: Reject) -> None:
        """Count a rejected row and remember the first of them."""
        self.rejected += 1
        if len(self.rejects) < REMEMBERED:
            self.rejects.append(reject)

    def add(self, other: Ledger) -> None:
        """Take another set's account into this one."""
        for name, value in vars(other).items():
            if name not in ("rejects", "longest"):
                setattr(self, name, getattr(self, name) + value)
        self.longest = max(self.longest, other.longest)
        self.rejects = [*self.rejects, *other.rejects][:REMEMBERED]

    def as_dict(self) -> dict[str, Any]:
        counts = asdict(self)
        del counts["rejects"]
        return {"read": self.read, **counts}

    @staticmethod
    def of(counts: Mapping[str, Any], rejects: list[Reject]) -> Ledger:
        """A ledger from what `as_dict` gave."""
        return Ledger(**{key: value for key, value in counts.items() if key != "read"}, rejects=rejects)
