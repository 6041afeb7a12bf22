"""One row as a model sees it: its text, its tokens, and which of them are learnt."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from ftx.data.template import IMAGE_ID, Encoded
from ftx.data.tokens import Tokenizer


@dataclass(frozen=True)
class Stretch:
    """Neighbouring tokens that are all learnt, or all not."""

    text: str
    learnt: bool
    tokens: list[str]
    ids: list[int]


def stretches(row: Encoded, tokenizer: Tokenizer) -> list[Stretch]:
    """The row cut where learning begins and ends."""
    found: list[Stretch] = []
    pairs = list(zip(row.ids, row.learnt, strict=True))
    for learnt, part in groupby(pairs, key=lambda pair: bool(pair[1])):
        ids = [i for i, _ in part]
        found.append(Stretch(_text(ids, tokenizer), learnt, [_token(i, tokenizer) for i in ids], ids))
    return found


def _text(ids: list[int], tokenizer: Tokenizer) -> str:
    parts = [(image, list(part)) for image, part in groupby(ids, key=lambda i: i == IMAGE_ID)]
    return "".join("<image>" * len(part) if image else tokenizer.decode(part) for image, part in parts)


def _token(token: int, tokenizer: Tokenizer) -> str:
    return "<image>" if token == IMAGE_ID else str(tokenizer.hf.convert_ids_to_tokens(token))
