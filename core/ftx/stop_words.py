"""Texts that end an answer, whatever tokens they come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftx.data.tokens import Tokenizer

if TYPE_CHECKING:
    import torch

TAIL = 8  # tokens more than a word has characters: what is decoded again after each token


@dataclass(frozen=True)
class StopWords:
    """`words` end an answer that begins after `start` tokens."""

    tokenizer: Tokenizer
    words: tuple[str, ...]
    start: int = 0

    def said(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """For generate: whether each row, int64 [rows, tokens], has come to a word; bool [rows]."""
        import torch

        tail = max(map(len, self.words)) + TAIL
        new = [row[self.start :][-tail:].tolist() for row in ids]
        found = [any(word in self.tokenizer.decode(row) for word in self.words) for row in new]
        return torch.tensor(found, device=ids.device)

    def cut(self, text: str) -> tuple[str, str | None]:
        """The text before the first word in it, and that word."""
        places = [(text.index(word), word) for word in self.words if word in text]
        if not places:
            return text, None
        at, word = min(places)
        return text[:at], word

    def held_back(self, text: str) -> str:
        """As much of an unfinished text as can be shown: not a word, nor what may become one."""
        text, _ = self.cut(text)
        longest = max(
            (n for word in self.words for n in range(1, len(word)) if text.endswith(word[:n])),
            default=0,
        )
        return text[: len(text) - longest]
