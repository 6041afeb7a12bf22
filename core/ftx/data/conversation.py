"""The one row type: a conversation, whatever format it came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

Role = Literal["system", "user", "assistant", "text"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "text")


class RowError(Exception):
    """A row that cannot be trained on: `reason` says what is wrong, `remedy` what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True)
class Message:
    """One turn. `loss` says whether an assistant's answer is learnt; "text" is raw text, learnt whole."""

    role: Role
    content: str
    loss: bool = True


@dataclass(frozen=True)
class Conversation:
    """Messages in order: an optional system message first, then user and assistant turns; or one text."""

    messages: tuple[Message, ...]

    @staticmethod
    def of(messages: Sequence[Message]) -> Conversation:
        """A checked conversation. Raises RowError with the first thing that is wrong."""
        if not messages:
            raise RowError("the row has no messages", "give at least one question and one answer")
        if messages[0].role == "text":
            if len(messages) > 1 or not messages[0].content.strip():
                raise RowError("the text is empty", "remove the row")
            return Conversation(tuple(messages))
        _check_order(messages)
        return Conversation(tuple(messages))

    def with_system(self, system: str | None) -> Conversation:
        """The same conversation with `system` in front, unless it has a system message or is plain text."""
        if not system or self.messages[0].role in ("system", "text"):
            return self
        return replace(self, messages=(Message("system", system), *self.messages))


def _check_order(messages: Sequence[Message]) -> None:
    turns = list(messages)
    if turns[0].role == "system":
        turns = turns[1:]
    for message in turns:
        if message.role == "system":
            raise RowError("a system message stands after the first turn", "put one system message first")
        if message.role == "text":
            raise RowError("raw text stands inside a conversation", "keep text rows and chat rows apart")
    if not turns or turns[0].role != "user":
        raise RowError("the conversation does not begin with a question", "begin with a user message")
    for before, after in pairwise(turns):
        if before.role == after.role:
            raise RowError(f"two {after.role} messages stand in a row", "join them or add the missing turn")
    if turns[-1].role != "assistant":
        raise RowError("the row has no answer to its last question", "add the assistant's answer")
    for message in turns:
        if message.role == "assistant" and not message.content.strip():
            raise RowError("an answer is empty", "write the answer or remove the row")
