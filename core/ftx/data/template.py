"""Prompt templates: a conversation becomes pieces of text, pieces become ids and labels.

Named templates are data. Ids and labels of `internlm2_chat` and `default` equal XTuner 0.1.23's encode
(reference: xtuner_encode.json), with one difference on purpose: a special token typed inside a message
stays ordinary text.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

from ftx.data.conversation import Conversation, Message, RowError
from ftx.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from ftx.data.tokens import Tokenizer

IGNORE = -100  # the label that cross entropy skips


@dataclass(frozen=True)
class Piece:
    """A stretch of rendered text. `literal`: the template's own, whose special tokens count as such."""

    text: str
    literal: bool
    loss: bool = False


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels of equal length; a label is its id or IGNORE (not shifted)."""

    ids: list[int]
    labels: list[int]


class Template(ABC):
    """Renders conversations. `stop`: texts of the tokens that end an answer."""

    name: str
    stop: tuple[str, ...]

    @abstractmethod
    def pieces(self, messages: Sequence[Message], *, answer_next: bool = False) -> Iterator[Piece]:
        """The rendered conversation; with `answer_next` it ends where the assistant is to speak.

        Raises RowError for a conversation the template cannot express.
        """

    @abstractmethod
    def jinja(self) -> str:
        """The same template as a Jinja chat template, which travels with the artefact."""

    def stop_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Ids that end an answer: the template's stop tokens and the tokenizer's end of text."""
        ids = {tokenizer.special(token) for token in self.stop} | set(tokenizer.eos_ids)
        return sorted(i for i in ids if i is not None)

    def check(self, tokenizer: Tokenizer) -> list[str]:
        """One sentence per stop token that the tokenizer lacks as a single token."""
        return [
            f"template '{self.name}' ends answers with '{token}', which is not one special token of this "
            f"tokenizer; choose a template that fits the model"
            for token in self.stop
            if tokenizer.special(token) is None
        ]

    def encode(self, conversation: Conversation, tokenizer: Tokenizer) -> Encoded:
        """Ids and labels of a whole training row. Raises RowError."""
        for message in conversation.messages:
            _refuse_half_characters(message.content)
        if conversation.messages[0].role == "text":
            return _encode_text(conversation.messages[0].content, tokenizer)
        return encode_pieces(self.pieces(conversation.messages), tokenizer)

    def prompt(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """Ids after which the assistant's next answer begins."""
        return encode_pieces(self.pieces(messages, answer_next=True), tokenizer).ids


def _refuse_half_characters(text: str) -> None:
    """JSON can spell half of a surrogate pair, which is no character and has no tokens."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise RowError(f"the text holds half a character ({half})", "write the row as whole UTF-8") from None


def encode_pieces(pieces: Iterator[Piece], tokenizer: Tokenizer) -> Encoded:
    """Ids and labels of rendered pieces.

    Neighbouring text is tokenised in one go as long as it is labelled alike, so that a question meets its
    template as it will at inference, and an answer begins on a token of its own.
    """
    ids: list[int] = []
    labels: list[int] = []
    for loss, run in groupby(pieces, key=lambda piece: piece.loss):
        new = list(_run_ids(list(run), tokenizer))
        ids += new
        labels += new if loss else [IGNORE] * len(new)
    return Encoded(ids, labels)


def _run_ids(run: list[Piece], tokenizer: Tokenizer) -> Iterator[int]:
    text = ""
    for piece in run:
        for part in tokenizer.split_specials(piece.text) if piece.literal else [piece.text]:
            special = tokenizer.special(part) if piece.literal else None
            if special is None:
                text += part
                continue
            yield from tokenizer.encode_text(text) if text else ()
            text = ""
            yield special
    yield from tokenizer.encode_text(text) if text else ()


def _encode_text(text: str, tokenizer: Tokenizer) -> Encoded:
    begin = [special] if (special := tokenizer.special(tokenizer.bos)) is not None else []
    ids = begin + tokenizer.encode_text(text) + sorted(tokenizer.eos_ids)
    return Encoded(ids, [IGNORE] * len(begin) + ids[len(begin) :])


@dataclass(frozen=True)
class NamedTemplate(Template):
    """A template by XTuner's scheme.

    `system` and `user` hold "{}" for the message; `suffix` ends an answer and is learnt; `sep` follows it
    and is not; with `bos_each_turn` a turn after the first begins with BOS again.
    """

    name: str
    system: str
    user: str
    suffix: str
    sep: str
    bos_each_turn: bool
    stop: tuple[str, ...]
    bos: str = "<s>"

    def pieces(self, messages: Sequence[Message], *, answer_next: bool = False) -> Iterator[Piece]:
        yield Piece(self.bos, literal=True)
        first = True
        for message in messages:
            if message.role == "assistant":
                yield Piece(message.content, literal=False, loss=message.loss)
                yield Piece(self.suffix, literal=True, loss=message.loss)
                yield Piece(self.sep, literal=True)
                continue
            if message.role == "user":
                if not first and self.bos_each_turn:
                    yield Piece(self.bos, literal=True)
                first = False
            frame = self.system if message.role == "system" else self.user
            before, _, after = frame.partition("{}")
            yield Piece(before, literal=True)
            yield Piece(message.content, literal=False)
            yield Piece(after, literal=True)

    def jinja(self) -> str:
        system = _jinja_concat(self.system, "messages[0]['content']")
        user = _jinja_concat(self.user, "message['content']")
        again = "{% if not loop.first %}{{ " + _quote(self.bos) + " }}{% endif %}" if self.bos_each_turn else ""
        return (
            "{{ " + _quote(self.bos) + " }}"
            "{% if messages[0]['role'] == 'system' %}{{ " + system + " }}{% set turns = messages[1:] %}"
            "{% else %}{% set turns = messages %}{% endif %}"
            "{% for message in turns %}{% if message['role'] == 'user' %}" + again + "{{ " + user + " }}"
            "{% else %}{{ message['content'] + " + _quote(self.suffix + self.sep) + " }}{% endif %}{% endfor %}"
        )


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def _jinja_concat(frame: str, content: str) -> str:
    before, _, after = frame.partition("{}")
    return f"{_quote(before)} + {content} + {_quote(after)}"


NAMED = {
    template.name: template
    for template in (
        NamedTemplate(
            name="internlm2_chat",
            system="<|im_start|>system\n{}<|im_end|>\n",
            user="<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
            suffix="<|im_end|>",
            sep="\n",
            bos_each_turn=False,
            stop=("<|im_end|>",),
        ),
        NamedTemplate(
            name="default",
            system="<|System|>:{}\n",
            user="<|User|>:{}\n<|Bot|>:",
            suffix="</s>",
            sep="\n",
            bos_each_turn=True,
            stop=("</s>",),
        ),
    )
}

# Two marks from the private use area that no real text holds frame each message while a Jinja template
# is rendered, so that the template's own text and the messages can be told apart afterwards.
_OPEN, _CLOSE = "\ue0f1", "\ue0f2"


class JinjaTemplate(Template):
    """The chat template a tokenizer brings, or that travelled with an artefact."""

    name = "tokenizer"

    def __init__(self, source: str, tokenizer: Tokenizer, eos_ids: set[int]) -> None:
        self._source = source
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids | tokenizer.eos_ids

    @cached_property
    def stop(self) -> tuple[str, ...]:  # type: ignore[override]
        """The first special token after an answer, found by rendering one."""
        probe = [Message("user", "a"), Message("assistant", "b")]
        *_, tail = self._rendered(probe, answer_next=False)
        found = [p for p in self._tokenizer.split_specials(tail.text) if self._tokenizer.special(p) is not None]
        return tuple(found[:1])

    def jinja(self) -> str:
        return self._source

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

    def pieces(self, messages: Sequence[Message], *, answer_next: bool = False) -> Iterator[Piece]:
        rendered = list(self._rendered(messages, answer_next=answer_next))
        answered = False
        for piece in rendered:
            if not piece.literal:
                answered = piece.loss
                yield piece
            elif answered:
                yield from self._label_through_stop(piece)
                answered = False
            else:
                yield piece

    def _label_through_stop(self, piece: Piece) -> Iterator[Piece]:
        """The stop token belongs to the answer before it; what follows it does not."""
        stop = self.stop[0] if self.stop else ""
        before, found, after = piece.text.partition(stop) if stop else ("", "", piece.text)
        if not found:
            raise RowError("the chat template ends this answer with no stop token", "name another template")
        yield Piece(before + found, literal=True, loss=True)
        if after:
            yield Piece(after, literal=True)

    def _rendered(self, messages: Sequence[Message], *, answer_next: bool) -> Iterator[Piece]:
        marked = [{"role": m.role, "content": f"{_OPEN}{i}{_CLOSE}"} for i, m in enumerate(messages)]
        text = self._render(marked, answer_next)
        kept = [int(index) for index in re.findall(f"{_OPEN}(\\d+){_CLOSE}", text)]
        if kept != list(range(len(messages))):
            raise RowError("the chat template leaves out or reorders messages of the row", "name another template")
        while text:
            before, opened, rest = text.partition(_OPEN)
            if before:
                yield Piece(before, literal=True)
            if not opened:
                return
            index, _, text = rest.partition(_CLOSE)
            message = messages[int(index)]
            yield Piece(message.content, literal=False, loss=message.role == "assistant" and message.loss)

    def _render(self, messages: list[dict[str, str]], answer_next: bool) -> str:
        from jinja2 import TemplateError

        try:
            return str(
                self._tokenizer.hf.apply_chat_template(
                    messages, chat_template=self._source, tokenize=False, add_generation_prompt=answer_next
                )
            )
        # A template is a program, whose mistakes surface as Python's own errors.
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise RowError(f"the chat template refuses the row: {error}", "change the row or the template") from None


def choose_template(name: str, tokenizer: Tokenizer, fallback: str, eos_ids: set[int]) -> Template:
    """The template called `name`; "auto" means the tokenizer's own, or else `fallback`.

    Raises RecipeError for an unknown name, or "tokenizer" where the tokenizer has none.
    """
    own = tokenizer.chat_template
    if name == "auto":
        name = "tokenizer" if own else fallback
    if name == "tokenizer":
        if not own:
            raise RecipeError("template: 'tokenizer' is asked for, but this tokenizer brings no chat template")
        return JinjaTemplate(own, tokenizer, eos_ids)
    check_template_name(name)
    return NAMED[name]


def check_template_name(name: str) -> None:
    """Raise RecipeError when no template is called `name`."""
    known = [*NAMED, "tokenizer", "auto"]
    if name not in known:
        raise RecipeError(f"template: '{name}' is not known; {did_you_mean(name, known)}")
