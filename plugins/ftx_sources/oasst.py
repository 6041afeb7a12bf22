"""Open-Assistant trees: a question, its answers, what was asked then, and so on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ftx import Conversation, DataFormat, Message, RowError
from ftx.data.conversation import Role
from ftx_sources.fields import has, text

ROLES: dict[str, Role] = {"prompter": "user", "assistant": "assistant"}
DEEPEST = 200  # turns; a tree of people's talk has some ten


class OasstTree(DataFormat):
    """Open-Assistant trees: {"message_tree_id": "...", "prompt": {"role": "prompter", "text": "...", "replies": []}}.

    Every way from the question to the end of a branch is a conversation; a last question without an answer is left out.
    """

    name = "oasst_tree"

    def recognise(self, value: Any) -> str | None:
        return has(value, "message_tree_id", "prompt")

    def parse(self, value: Any) -> Conversation:
        return self.parse_all(value)[0]

    def parse_all(self, value: Any) -> Sequence[Conversation]:
        found = [Conversation.of(way) for way in dict.fromkeys(answered_ways(value))]
        if not found:
            raise RowError("the tree has no answer", "remove the row")
        return found


def answered_ways(value: Any) -> Iterator[tuple[Message, ...]]:
    """The way to every leaf of a tree up to its last answer; two that differ in their last question alone are equal."""
    root = value.get("prompt") if isinstance(value, dict) else None
    for way in _ways(root, ()):
        answered = way if way[-1].role == "assistant" else way[:-1]
        if answered:
            yield answered


def _ways(node: Any, before: tuple[Message, ...]) -> Iterator[tuple[Message, ...]]:
    role = text(node, "role")
    if role not in ROLES:
        raise RowError(f"role '{role:.40}' is not known", "use prompter and assistant")
    if len(before) >= DEEPEST:
        raise RowError(f"the tree is deeper than {DEEPEST} turns", "cut it")
    way = (*before, Message(ROLES[role], text(node, "text")))
    replies = node.get("replies") or []
    if not isinstance(replies, list):
        raise RowError("'replies' is no list", "write 'replies' as a list of messages")
    if not replies:
        yield way
    for reply in replies:
        yield from _ways(reply, way)
