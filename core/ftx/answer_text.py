"""The text of an answer as its tokens come, up to a stop word."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from ftx.data.tokens import Tokenizer

if TYPE_CHECKING:
    import torch

UNFINISHED = "\ufffd"  # the mark of a character whose bytes are not all there yet


def before_stop_word(text: str, stop_words: Sequence[str]) -> tuple[str, str | None]:
    """The text up to the first stop word in it, and that word; all of it and None where there is none."""
    found = [(at, word) for word in stop_words if (at := text.find(word)) >= 0]
    at, word = min(found, default=(len(text), None))
    return text[:at], word


def may_begin_stop_word(text: str, stop_words: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop word."""
    return max(
        (size for word in stop_words for size in range(1, len(word)) if text.endswith(word[:size])),
        default=0,
    )


class AnswerText:
    """A streamer of transformers' `generate`: `show` gets text as soon as its bytes make whole characters.

    Nothing of a stop word is shown; `word` is the one that came, after which `text` and `tokens` stay as they are.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_ids: Collection[int],
        stop_words: Sequence[str] = (),
        show: Callable[[str], None] | None = None,
    ) -> None:
        self.text = ""
        self.tokens = 0
        self.word: str | None = None
        self._tokenizer = tokenizer
        self._stop_ids = set(stop_ids)
        self._stop_words = stop_words
        self._show = show
        self._ids: list[int] = []
        self._shown = 0
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Take the next ids; `generate` hands over the prompt first."""
        if self._prompt:
            self._prompt = False
            return
        if self.word is not None:
            return
        new = value.flatten().tolist()
        self.tokens += len(new)
        self._ids += [i for i in new if i not in self._stop_ids]
        self.text, self.word = before_stop_word(self._tokenizer.decode(self._ids), self._stop_words)
        if self.word is not None:
            self._flush(len(self.text))
        elif not self.text.endswith(UNFINISHED):
            self._flush(len(self.text) - may_begin_stop_word(self.text, self._stop_words))

    def end(self) -> None:
        self._flush(len(self.text))

    def _flush(self, until: int) -> None:
        if until > self._shown:
            if self._show:
                self._show(self.text[self._shown : until])
            self._shown = until
