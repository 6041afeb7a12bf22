"""The one row type: a conversation, whatever format it came in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool", "text"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool", "text")

# Stands in a message's content for each of its images, in order: Unicode's own mark for an embedded object.
IMAGE = "\ufffc"


class RowError(Exception):
    """A row that cannot be trained on: `reason` says what is wrong, `remedy` what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


def refuse_strange_characters(text: str) -> None:
    """Raise RowError for what JSON can spell and is no text: half of a surrogate pair, which has no tokens, and NUL."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise RowError(f"the text holds half a character ({half})", "write the row as whole UTF-8") from None
    if "\x00" in text:
        raise RowError("the text holds a NUL character", "remove it")


def texts_in(value: Any) -> Iterator[str]:
    """All texts in JSON values, however deep: a call for each level would exceed Python's own."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one


@dataclass(frozen=True)
class Picture:
    """A picture file that was looked at: where it is, its width and height in pixels as it is to be seen.

    `size` in bytes and `mtime_ns` tell whether the file is still the one that was looked at; `digest` is a hash of its
    content in hex.
    """

    path: str
    width: int
    height: int
    size: int
    mtime_ns: int
    digest: str


@dataclass(frozen=True)
class Message:
    """One turn.

    `loss` says whether an assistant's answer is learnt. "text" is raw text, learnt whole; `ends` says whether the
    model is to stop after it. "tool" is what a tool gave back, never learnt. `images` are paths, one for each IMAGE
    in `content`; `tool_calls` are an assistant's calls in OpenAI's form. `pictures` are the files of `images` once
    they were looked at.
    """

    role: Role
    content: str
    loss: bool = True
    images: tuple[str, ...] = ()
    tool_calls: tuple[Any, ...] = ()
    ends: bool = True
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """Messages in order: an optional system message first, then user and assistant turns; or one text.

    `tools` are the tools that the assistant may call, in OpenAI's form.
    """

    messages: tuple[Message, ...]
    tools: tuple[Any, ...] = ()

    @staticmethod
    def of(messages: Sequence[Message], tools: Sequence[Any] = (), *, many_systems: bool = False) -> Conversation:
        """A checked conversation. Raises RowError with the first thing that is wrong.

        `many_systems` lets a system message stand before any question, as XTuner's rows may have it.
        """
        if not messages:
            raise RowError("the row has no messages", "give at least one question and one answer")
        if messages[0].role == "text":
            _check_text(messages)
        else:
            _check_order(messages, many_systems)
        for message in messages:
            _check_images(message)
        return Conversation(tuple(messages), tuple(tools))

    @property
    def images(self) -> tuple[str, ...]:
        """Paths of all images in order."""
        return tuple(path for message in self.messages for path in message.images)

    @property
    def pictures(self) -> list[Picture]:
        """The pictures that stand in the messages, in order; a message cut short has fewer than it came with."""
        return [picture for m in self.messages for picture in m.pictures[: m.content.count(IMAGE)]]

    @property
    def learnt_turns(self) -> int:
        """Number of answers that are learnt."""
        return sum(message.role == "assistant" and message.loss for message in self.messages)

    def refuse_strange_characters(self) -> None:
        """Raise RowError when what is said, called or offered as a tool holds what is no text."""
        for message in self.messages:
            refuse_strange_characters(message.content)
        for text in texts_in([self.tools, *(message.tool_calls for message in self.messages)]):
            refuse_strange_characters(text)

    def with_system(self, system: str | None) -> Conversation:
        """The same conversation with `system` in front, unless it has a system message or is plain text."""
        if not system or self.messages[0].role in ("system", "text"):
            return self
        return replace(self, messages=(Message("system", system), *self.messages))

    def with_pictures(self, found: Mapping[str, Picture]) -> Conversation:
        """The same conversation with the files of its images, by the names that it gives them."""
        shown = (replace(m, pictures=tuple(found[name] for name in m.images)) if m.images else m for m in self.messages)
        return replace(self, messages=tuple(shown))

    def exchanges(self) -> tuple[tuple[Message, ...], list[tuple[Message, ...]]]:
        """What stands before the first question, and the turns cut before each question."""
        cuts = [i for i, message in enumerate(self.messages) if message.role == "user"]
        # A system message in mid-conversation belongs to the question after it.
        starts = [i - 1 if i > cuts[0] and self.messages[i - 1].role == "system" else i for i in cuts]
        ends = [*starts[1:], len(self.messages)]
        return self.messages[: starts[0]], [self.messages[a:b] for a, b in zip(starts, ends, strict=True)]


def _check_text(messages: Sequence[Message]) -> None:
    if len(messages) > 1:
        raise RowError("raw text stands beside other messages", "keep text rows and chat rows apart")
    if not messages[0].content.strip():
        raise RowError("the text is empty", "remove the row")


def _check_images(message: Message) -> None:
    marks = message.content.count(IMAGE)
    if message.images and marks != len(message.images):
        raise RowError(
            f"a message has {marks} image marks and {len(message.images)} images", "give one <image> for each image"
        )


# what may stand before a message of each role
_AFTER: dict[str, tuple[str, ...]] = {
    "user": ("", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


def _check_order(messages: Sequence[Message], many_systems: bool) -> None:
    before = ""
    for i, message in enumerate(messages):
        if message.role == "system":
            if i and not (many_systems and before in ("", "assistant")):
                raise RowError("a system message stands after the first turn", "put one system message first")
            if many_systems and i and messages[i - 1].role == "system":
                raise RowError("two system messages stand in a row", "join them")
            continue
        if message.role == "text":
            raise RowError("raw text stands inside a conversation", "keep text rows and chat rows apart")
        if before not in _AFTER[message.role]:
            _refuse_order(before, message.role)
        if message.role == "assistant" and not message.content.strip() and not message.tool_calls:
            raise RowError("an answer is empty", "write the answer or remove the row")
        before = message.role
    if not before:
        raise RowError("the conversation does not begin with a question", "begin with a user message")
    if before != "assistant":
        raise RowError("the row has no answer to its last question", "add the assistant's answer")


def _refuse_order(before: str, role: str) -> None:
    if not before:
        raise RowError("the conversation does not begin with a question", "begin with a user message")
    if before == role:
        raise RowError(f"two {role} messages stand in a row", "join them or add the missing turn")
    raise RowError(f"a {role} message stands after a {before} message", "add the turn that is missing between them")
