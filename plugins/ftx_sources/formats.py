"""Row formats. Each recognises its rows by their keys and turns them into Conversations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

from ftx import Conversation, DataFormat, Message, RowError
from ftx.data.conversation import Role

SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


def _has(value: Any, *keys: str) -> str | None:
    if isinstance(value, dict) and all(key in value for key in keys):
        return "has " + " and ".join(f"'{key}'" for key in keys)
    return None


def _string(row: Any, key: str) -> str:
    """A text field. Raises RowError when it is absent or of another type."""
    if not isinstance(row, dict):
        raise RowError(f"expected an object, found {type(row).__name__}", "make every row a JSON object")
    value = row.get(key)
    if value is None:
        raise RowError(f"'{key}' is missing", f"add '{key}'")
    if not isinstance(value, str):
        raise RowError(f"'{key}' is {type(value).__name__}, not text", f"write '{key}' as text")
    return value


def _list(row: Any, key: str) -> list[Any]:
    value = row.get(key) if isinstance(row, dict) else None
    if isinstance(value, str):  # a table cell can hold a list only as JSON text
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise RowError(f"'{key}' is text that is no JSON list", f"write '{key}' as a list") from None
    if not isinstance(value, list):
        raise RowError(f"'{key}' is no list", f"write '{key}' as a list of turns")
    return value


class Messages(DataFormat):
    """OpenAI chat rows: {"messages": [{"role": "user", "content": "..."}, ...]}."""

    name = "openai"

    def recognise(self, value: Any) -> str | None:
        return _has(value, "messages")

    def parse(self, value: Any) -> Conversation:
        return Conversation.of([self._message(item) for item in _list(value, "messages")])

    def _message(self, item: Any) -> Message:
        role = _string(item, "role")
        if role not in get_args(Role) or role == "text":
            raise RowError(f"role '{role}' is not known", "use system, user or assistant")
        loss = item.get("loss", True)
        if not isinstance(loss, bool):
            raise RowError(f"'loss' is {loss!r}, not true or false", "write it as a JSON boolean")
        return Message(role, _string(item, "content"), loss)  # type: ignore[arg-type]


class XTunerConversation(DataFormat):
    """XTuner rows: {"conversation": [{"system": "...", "input": "...", "output": "..."}, ...]}."""

    name = "xtuner"

    def recognise(self, value: Any) -> str | None:
        return _has(value, "conversation")

    def parse(self, value: Any) -> Conversation:
        turns = _list(value, "conversation")
        if (
            len(turns) == 1
            and isinstance(turns[0], dict)
            and turns[0].get("input") == ""
            and not turns[0].get("system")
        ):
            return Conversation.of([Message("text", _string(turns[0], "output"))])
        return Conversation.of([message for turn in turns for message in self._messages(turn)])

    def _messages(self, turn: Any) -> Iterator[Message]:
        question = Message("user", _string(turn, "input"))
        if turn.get("system"):
            yield Message("system", _string(turn, "system"))
        yield question
        loss = turn.get("output_with_loss", True)
        if not isinstance(loss, bool):
            raise RowError(f"'output_with_loss' is {loss!r}, not true or false", "write it as a JSON boolean")
        yield Message("assistant", _string(turn, "output"), loss)


class ShareGPT(DataFormat):
    """ShareGPT rows: {"conversations": [{"from": "human", "value": "..."}, ...], "system": "..."}."""

    name = "sharegpt"

    def recognise(self, value: Any) -> str | None:
        return _has(value, "conversations")

    def parse(self, value: Any) -> Conversation:
        messages = [self._message(item) for item in _list(value, "conversations")]
        if value.get("system"):
            messages.insert(0, Message("system", _string(value, "system")))
        return Conversation.of(messages)

    def _message(self, item: Any) -> Message:
        speaker = _string(item, "from")
        if speaker not in SHAREGPT_ROLES:
            raise RowError(f"speaker '{speaker}' is not known", f"use one of {', '.join(SHAREGPT_ROLES)}")
        return Message(SHAREGPT_ROLES[speaker], _string(item, "value"))


class Alpaca(DataFormat):
    """Alpaca rows: {"instruction": "...", "input": "...", "output": "...", "system": "..."}."""

    name = "alpaca"

    def recognise(self, value: Any) -> str | None:
        return _has(value, "instruction", "output")

    def parse(self, value: Any) -> Conversation:
        question = _string(value, "instruction")
        if value.get("input"):
            question = f"{question}\n{_string(value, 'input')}"
        messages = [Message("user", question), Message("assistant", _string(value, "output"))]
        if value.get("system"):
            messages.insert(0, Message("system", _string(value, "system")))
        return Conversation.of(messages)


class InputOutput(DataFormat):
    """Plain pairs: {"input": "...", "output": "...", "system": "..."}, XTuner's default columns."""

    name = "input_output"

    def recognise(self, value: Any) -> str | None:
        return _has(value, "input", "output")

    def parse(self, value: Any) -> Conversation:
        messages = [Message("user", _string(value, "input")), Message("assistant", _string(value, "output"))]
        if value.get("system"):
            messages.insert(0, Message("system", _string(value, "system")))
        return Conversation.of(messages)


class Text(DataFormat):
    """Plain text to go on pre-training with: {"text": "..."}; every token is learnt."""

    name = "text"

    def recognise(self, value: Any) -> str | None:
        return _has(value, "text")

    def parse(self, value: Any) -> Conversation:
        return Conversation.of([Message("text", _string(value, "text"))])
