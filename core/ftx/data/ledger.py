"""The account of a data set: rows read = kept + truncated + rejected, always."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


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
    """Counts of rows; `tokens` and `labelled` count the tokens of the rows that are trained on."""

    kept: int = 0
    truncated: int = 0
    tokens: int = 0
    labelled: int = 0
    longest: int = 0
    rejects: list[Reject] = field(default_factory=list)

    @property
    def read(self) -> int:
        return self.kept + self.truncated + len(self.rejects)

    @property
    def trained(self) -> int:
        return self.kept + self.truncated

    def as_dict(self) -> dict[str, Any]:
        counts = asdict(self)
        counts["rejected"] = len(counts.pop("rejects"))
        return {"read": self.read, **counts}
