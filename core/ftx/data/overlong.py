"""Rows longer than `data.max_length`: cut at a turn's border, split, refused, or simply cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from ftx.data.conversation import Conversation, Message, RowError
from ftx.data.template import Encoded
from ftx.data.tokens import Tokenizer

Policy = Literal["truncate", "split", "reject", "cut"]
REMEDY = "raise data.max_length, or set data.overlong to split or cut"


@dataclass(frozen=True)
class Fitted:
    """The samples of a row, and whether anything of it was lost."""

    samples: list[Encoded]
    truncated: bool


@dataclass(frozen=True)
class Fitter:
    """Makes rows fit into `limit` tokens.

    truncate: whole turns are dropped from the end; of a plain text, its end. split: turns are spread over several
    samples, each with the system message; a plain text is cut into stretches. reject: the row is refused. cut: the
    row ends after `limit` tokens, wherever that is, as XTuner's do, but before an image that would not be whole.
    `encode` may raise RowError.
    """

    policy: Policy
    limit: int
    tokenizer: Tokenizer
    encode: Callable[[Conversation], Encoded]

    def too_long_to_read(self, conversation: Conversation) -> bool:
        """Whether the row surely exceeds the limit, so that tokenising all of it would be wasted."""
        size = _size(conversation.messages) + (len(str(conversation.tools)) if conversation.tools else 0)
        return size > self.limit and size > self._most_characters

    @property
    def _most_characters(self) -> int:
        """No row of more characters has as few tokens as the limit."""
        return self.limit * self.tokenizer.longest_token

    def fit(self, conversation: Conversation, row: Encoded | None) -> Fitted:
        """The row's samples. `row` is None when it is too long to read. Raises RowError when nothing can be kept."""
        if row is not None and len(row.ids) <= self.limit:
            return Fitted([row], truncated=False)
        if self.policy == "reject":
            much = f"{len(row.ids)} tokens" if row else f"{_size(conversation.messages)} characters"
            raise RowError(f"the row has {much}, too many for data.max_length {self.limit}", REMEDY)
        if conversation.messages[0].role == "text":
            return self._text(conversation.messages[0], row)
        if self.policy == "cut":
            return Fitted([(row or self.encode(self._readable(conversation))).part(0, self.limit)], truncated=True)
        return self._split(conversation) if self.policy == "split" else self._truncate(conversation)

    def _readable(self, conversation: Conversation) -> Conversation:
        """The conversation up to where the limit surely is."""
        left = self._most_characters
        kept: list[Message] = []
        for message in conversation.messages:
            kept.append(replace(message, content=message.content[:left]))
            left -= len(message.content)
            if left <= 0:
                break
        return replace(conversation, messages=tuple(kept))

    def _text(self, message: Message, row: Encoded | None) -> Fitted:
        if message.images:
            raise RowError(f"a text with images exceeds data.max_length {self.limit}", "raise it or shorten the text")
        if self.policy != "split":
            whole = row or self.encode(self._readable(Conversation((message,))))
            return Fitted([whole.part(0, self.limit)], truncated=True)
        parts = [row] if row else [self.encode(Conversation((part,))) for part in self._stretches(message)]
        samples = [part.part(at, at + self.limit) for part in parts for at in range(0, len(part.ids), self.limit)]
        return Fitted(samples, truncated=False)

    def _stretches(self, message: Message) -> Iterator[Message]:
        """A huge text in readable parts, cut after a line where there is one; the last one ends as the text does."""
        size = self._most_characters
        at = 0
        while at < len(message.content):
            stop = at + size
            if stop < len(message.content):
                stop = max(message.content.rfind("\n", at + size // 2, stop) + 1, at + size // 2)
            last = stop >= len(message.content)
            yield replace(message, content=message.content[at:stop], ends=message.ends and last)
            at = stop

    def _truncate(self, conversation: Conversation) -> Fitted:
        head, exchanges = conversation.exchanges()
        count, row = self._most(conversation, head, exchanges, 0)
        if row is None:
            raise RowError(f"its first question and answer exceed data.max_length {self.limit}", REMEDY)
        return Fitted([row], truncated=count < len(exchanges))

    def _split(self, conversation: Conversation) -> Fitted:
        head, exchanges = conversation.exchanges()
        samples: list[Encoded] = []
        lost = False
        at = 0
        while at < len(exchanges):
            count, row = self._most(conversation, head, exchanges, at)
            if row is None:
                lost, count = True, 1
            else:
                samples.append(row)
            at += count
        if not samples:
            raise RowError(f"no question and answer of the row fits data.max_length {self.limit}", REMEDY)
        return Fitted(samples, truncated=lost)

    def _most(
        self, conversation: Conversation, head: tuple[Message, ...], exchanges: list[tuple[Message, ...]], at: int
    ) -> tuple[int, Encoded | None]:
        """The largest number of exchanges from the one at `at` on that fits after `head`, and the row they make."""
        low, high, best = 0, len(exchanges) - at, None
        while low < high:
            # Doubled until it is too long, so that the trials stay as short as what fits, however long the row.
            middle = min(2 * low or 1, (low + high + 1) // 2)
            messages = (*head, *(message for turns in exchanges[at : at + middle] for message in turns))
            row = None
            if _size(messages) <= self._most_characters:
                row = self.encode(replace(conversation, messages=messages))
            if row is not None and len(row.ids) <= self.limit:
                low, best = middle, row
            else:
                high = middle - 1
        return low, best


def _size(messages: tuple[Message, ...]) -> int:
    return sum(len(m.content) + (len(str(m.tool_calls)) if m.tool_calls else 0) for m in messages)
