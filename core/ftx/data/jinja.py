"""The chat template that a tokenizer brings, or that travelled with an artefact, taken apart into pieces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ftx.data.conversation import Conversation, Message, RowError, refuse_strange_characters, texts_in
from ftx.data.template import Piece, Template, message_pieces

if TYPE_CHECKING:
    from ftx.data.tokens import Tokenizer

# Marks from the private use area, which no real text holds, frame each message's place while a template is rendered,
# so that the template's own text and the messages can be told apart afterwards. The spaces around them are of a kind
# no template writes: where one is gone, the template strips its messages.
_OPEN, _CLOSE, _GUARD = "\ue0f1", "\ue0f2", "\u2003"
_MARK = re.compile(f"({_GUARD}?){_OPEN}(\\d+){_CLOSE}({_GUARD}?)")
LAST = -1


@dataclass(frozen=True)
class Place:
    """The template's own `text` and the message that follows it; LAST when none does.

    `left` and `right` say whether the template strips white space from the message's ends.
    """

    text: str
    message: int = LAST
    left: bool = False
    right: bool = False

    def said(self, message: Message) -> Message:
        """The message as the template writes it."""
        text = message.content
        text = text.lstrip() if self.left else text
        text = text.rstrip() if self.right else text
        return message if text == message.content else replace(message, content=text)


# (role, whether the content is empty) of each message, and whether an answer comes next
Shape = tuple[tuple[tuple[str, bool], ...], bool]


class JinjaTemplate(Template):
    """A Jinja chat template. A message's text never meets the template: its place does."""

    name = "tokenizer"

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self._source = source
        self._tokenizer = tokenizer
        self._known: dict[Shape, list[Place]] = {}

    @cached_property
    def stop(self) -> tuple[str, ...]:  # type: ignore[override]
        """The first special token after an answer, found by rendering one."""
        probe = Conversation((Message("user", "a"), Message("assistant", "b")))
        tail = self._cut(self._render(probe, answer_next=False), probe)[-1].text
        found = [p for p in self._tokenizer.split_specials(tail) if self._tokenizer.special(p) is not None]
        return tuple(found[:1])

    def jinja(self) -> str:
        return self._source

    def stop_id(self, tokenizer: Tokenizer) -> int | None:
        return tokenizer.special(self.stop[0]) if self.stop else None

    def check(self, tokenizer: Tokenizer) -> list[str]:
        try:
            if self.stop:
                return []
        except RowError as error:
            return [f"the tokenizer's chat template cannot be used: {error.reason}"]
        return [
            "the tokenizer's chat template puts no special token after an answer, so the model could never "
            "learn to stop; name a template that does"
        ]

    def pieces(self, conversation: Conversation, *, answer_next: bool = False) -> Iterator[Piece]:
        stop = self.stop[0] if self.stop else ""
        answered: Message | None = None
        for place in self._places(conversation, answer_next):
            if answered is None:
                yield Piece(place.text, "frame")
            else:
                yield from _through_stop(place.text, stop, answered.loss)
            if place.message == LAST:
                return
            message = place.said(conversation.messages[place.message])
            answered = message if message.role == "assistant" else None
            loss = answered is not None and message.loss
            yield from message_pieces(message, loss=loss, fresh=answered is not None)

    def _places(self, conversation: Conversation, answer_next: bool) -> list[Place]:
        """Where the messages stand. That depends on roles alone, so each shape is rendered once, but tools anew."""
        if conversation.tools or any(m.tool_calls for m in conversation.messages):
            return self._cut(self._with_calls(conversation, answer_next), conversation)
        shape = (tuple((m.role, not m.content) for m in conversation.messages), answer_next)
        if shape not in self._known:
            self._known[shape] = self._cut(self._render(conversation, answer_next), conversation)
        return self._known[shape]

    def _with_calls(self, conversation: Conversation, answer_next: bool) -> str:
        """The rendered text with a mark where each call without words begins: where the prompt for it ends."""
        text = self._render(conversation, answer_next)
        if conversation.tools and self._is(text, replace(conversation, tools=()), answer_next):
            raise RowError("the chat template has no place for tools", "name another template or remove 'tools'")
        if any(m.tool_calls for m in conversation.messages) and self._is(text, conversation, answer_next, calls=False):
            raise RowError("the chat template has no place for tool calls", "name another template or drop the row")
        found: list[tuple[int, int]] = []
        for i, message in enumerate(conversation.messages):
            if message.tool_calls and not message.content:
                asked = Conversation(conversation.messages[:i], conversation.tools)
                prompt = self._render(asked, answer_next=True)
                if not text.startswith(prompt):
                    raise RowError("the chat template puts a tool call in no known place", "give its turn some text")
                found.append((len(prompt), i))
        for at, i in reversed(found):
            text = f"{text[:at]}{_GUARD}{_OPEN}{i}{_CLOSE}{_GUARD}{text[at:]}"
        return text

    def _is(self, text: str, conversation: Conversation, answer_next: bool, *, calls: bool = True) -> bool:
        """Whether `text` is all that the template says."""
        try:
            return self._render(conversation, answer_next, calls=calls) == text
        except RowError:
            return False

    @staticmethod
    def _cut(text: str, conversation: Conversation) -> list[Place]:
        parts = _MARK.split(text)
        texts, lefts, numbers, rights = parts[::4], parts[1::4], parts[2::4], parts[3::4]
        if [int(number) for number in numbers] != list(range(len(conversation.messages))):
            raise RowError("the chat template leaves out or reorders messages of the row", "name another template")
        marked = zip(texts, lefts, rights, strict=False)
        places = [Place(own, i, not left, not right) for i, (own, left, right) in enumerate(marked)]
        return [*places, Place(texts[-1])]

    @cached_property
    def _in_parts(self) -> bool:
        """Whether the template finds a text only in a list of parts, as those of some models that see do."""
        probe = Conversation((Message("user", "a"), Message("assistant", "b")))
        return not self._finds(probe, in_parts=False) and self._finds(probe, in_parts=True)

    def _finds(self, probe: Conversation, *, in_parts: bool) -> bool:
        try:
            self._cut(self._render(probe, answer_next=False, in_parts=in_parts), probe)
        except RowError:
            return False
        return True

    def _render(
        self, conversation: Conversation, answer_next: bool, *, calls: bool = True, in_parts: bool | None = None
    ) -> str:
        from jinja2 import TemplateError

        in_parts = self._in_parts if in_parts is None else in_parts

        tools = _spoken([*conversation.tools], self._tokenizer) if conversation.tools else None
        messages = [_marked(i, message, self._tokenizer, calls) for i, message in enumerate(conversation.messages)]
        if in_parts:
            messages = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in messages]
        try:
            return str(
                self._tokenizer.hf.apply_chat_template(
                    messages, tools, chat_template=self._source, tokenize=False, add_generation_prompt=answer_next
                )
            )
        except RecursionError:
            raise RowError("a tool or call is nested too deeply", "write it flatter") from None
        # A template is a program, whose mistakes surface as Python's own errors.
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise RowError(f"the chat template refuses the row: {error}", "change the row or the template") from None


def _through_stop(text: str, stop: str, loss: bool) -> Iterator[Piece]:
    """The stop token belongs to the answer before it; what follows it does not."""
    before, found, after = text.partition(stop) if stop else ("", "", text)
    if not found:
        raise RowError("the chat template ends this answer with no stop token", "name another template")
    yield Piece(before + found, "frame", loss)
    if after:
        yield Piece(after, "frame")


def _marked(index: int, message: Message, tokenizer: Tokenizer, calls: bool) -> dict[str, Any]:
    # A call without words keeps its empty content: templates write it otherwise than one with words.
    wordless = message.tool_calls and not message.content
    shown: dict[str, Any] = {
        "role": message.role,
        "content": "" if wordless else f"{_GUARD}{_OPEN}{index}{_CLOSE}{_GUARD}",
    }
    if message.tool_calls and calls:
        shown["tool_calls"] = _spoken([*message.tool_calls], tokenizer)
    return shown


def _spoken(value: list[Any], tokenizer: Tokenizer) -> list[Any]:
    """Tools and calls are written by the template itself, so a special token inside them would become one."""
    for text in texts_in(value):
        refuse_strange_characters(text)
        if any(tokenizer.special(part) is not None for part in tokenizer.split_specials(text)):
            raise RowError(f"a tool or call holds a special token ({text[:40]!r})", "write it without the token")
    return value
