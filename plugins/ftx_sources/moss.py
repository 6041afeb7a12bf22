"""MOSS plugin data: turns of thoughts, commands, tool results and answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftx import Conversation, DataFormat, Message, RowError
from ftx_sources.fields import has, text

# the parts of a turn in order: key, what MOSS writes around it
HUMAN = ("Human", "<|Human|>:", "<eoh>")
RESULTS = ("Tool Responses", "<|Results|>:", "<eor>")


class Moss(DataFormat):
    """MOSS rows: {"meta_instruction": "...", "num_turns": 1, "chat": {"turn_1": {"Human": "...", ...}}}.

    The meta instruction is the system text and tool results are what a tool said: neither is learnt. Thoughts with
    their commands, and answers, are. Template moss_sft has places for all of them.
    """

    name = "moss"

    def recognise(self, value: Any) -> str | None:
        return has(value, "meta_instruction", "chat")

    def parse(self, value: Any) -> Conversation:
        system = Message("system", text(value, "meta_instruction").strip())
        chat = value.get("chat")
        if not isinstance(chat, dict) or not chat:
            raise RowError("'chat' is no object of turns", "write it as {'turn_1': {...}}")
        turns = [chat.get(f"turn_{i}") for i in range(1, len(chat) + 1)]
        return Conversation.of([system, *(message for turn in turns for message in _messages(turn))])


def _messages(turn: Any) -> Iterator[Message]:
    if not isinstance(turn, dict):
        raise RowError("the turns of 'chat' are not turn_1, turn_2 and so on", "number them from 1")
    yield Message("user", _inner(turn, *HUMAN))
    thoughts = "".join(text(turn, key) for key in ("Inner Thoughts", "Commands") if key in turn).rstrip("\n")
    results = _inner(turn, *RESULTS) if RESULTS[0] in turn else ""
    answer = text(turn, "MOSS").rstrip("\n")
    if results and thoughts:
        yield Message("assistant", thoughts)
        yield Message("tool", results)
        yield Message("assistant", answer)
    else:
        yield Message("assistant", f"{thoughts}\n{answer}" if thoughts else answer)


def _inner(turn: dict[str, Any], key: str, before: str, after: str) -> str:
    """The text without MOSS's marks around it, which the template writes."""
    return text(turn, key).strip().removeprefix(before).removesuffix(after).strip()
