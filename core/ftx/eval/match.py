"""How near an answer is to its reference.

Exact: the same characters, white space at the ends and the width of letters (NFKC) aside. Near: the Ratcliff-Obershelp
ratio of Python's difflib over characters, case aside: 1.0 for the same, 0.0 for nothing in common. It needs no words,
and so holds for Chinese as for English.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from ftx.talk import Answer


def is_exact(answer: str, reference: str) -> bool:
    return _plain(answer) == _plain(reference)


def nearness(answer: str, reference: str) -> float:
    """0.0 to 1.0."""
    return SequenceMatcher(None, _plain(answer).casefold(), _plain(reference).casefold(), autojunk=False).ratio()


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip()


@dataclass(frozen=True)
class Judged:
    """An answer to a question; `exact` and `near` are None where there is no reference."""

    text: str
    stopped: bool
    tokens: int
    exact: bool | None
    near: float | None


def judged(answer: Answer, reference: str | None) -> Judged:
    told = (None, None) if reference is None else (is_exact(answer.text, reference), nearness(answer.text, reference))
    return Judged(answer.text, answer.stopped, answer.tokens, *told)


@dataclass(frozen=True)
class Figures:
    """Of a set of answers: shares from 0 to 1, and tokens an answer on average. None where nothing has a reference."""

    asked: int
    exact: float | None
    near: float | None
    stopped: float
    tokens: float


def figures(answers: Sequence[Judged]) -> Figures:
    """Raises ZeroDivisionError for no answers."""
    known = [one for one in answers if one.exact is not None and one.near is not None]
    return Figures(
        len(answers),
        sum(bool(one.exact) for one in known) / len(known) if known else None,
        sum(one.near or 0.0 for one in known) / len(known) if known else None,
        sum(one.stopped for one in answers) / len(answers),
        sum(one.tokens for one in answers) / len(answers),
    )


@dataclass(frozen=True)
class Forgotten:
    """Of answers to other questions: how many changed at all, how many moved away from their reference, and how many
    were exact and are not any more."""

    asked: int
    changed: int
    worse: int
    lost: int


def forgotten(before: Sequence[Judged], after: Sequence[Judged]) -> Forgotten:
    pairs = list(zip(before, after, strict=True))
    return Forgotten(
        len(pairs),
        sum(a.text != b.text for a, b in pairs),
        sum(a.near is not None and b.near is not None and b.near < a.near for a, b in pairs),
        sum(bool(a.exact) and not b.exact for a, b in pairs),
    )
