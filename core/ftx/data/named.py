"""Prompt templates and system texts by name, as data.

xtuner_templates.json holds the exact strings of XTuner 0.1.23 (Apache-2.0), 26 templates and 8 system texts: a model
tuned there is continued, and its training data replayed, only with the same characters. family_templates.json holds
those of models whose official code brings its own: InternVL2's (its conversation.py), and XTuner's for InternVL2.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ftx.data.conversation import Conversation, Message, RowError
from ftx.data.template import Piece, Template, message_pieces
from ftx.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from ftx.data.tokens import Tokenizer


@dataclass(frozen=True)
class NamedTemplate(Template):
    """A template by XTuner's scheme.

    `system` holds "{system}", `user` holds "{input}" and may hold "{round}", counted from 1. `suffix` ends an answer
    and is learnt; with `eos` the tokenizer's end of text follows it, learnt too, and the next turn begins with BOS
    again; `sep` comes last and is not learnt. `tool` holds "{output}" for what a tool gave back (ftx's own addition,
    for MOSS's plugin data). `default_system` stands where a conversation has no system message.
    """

    name: str
    system: str | None
    user: str
    suffix: str
    eos: bool
    sep: str
    stop: tuple[str, ...]
    tool: str | None = None
    default_system: str | None = None

    def pieces(self, conversation: Conversation, *, answer_next: bool = False) -> Iterator[Piece]:
        if conversation.tools or any(self._has_no_place(message) for message in conversation.messages):
            raise RowError(
                f"template '{self.name}' has no place for tools", "use the tokenizer's own template or drop the row"
            )
        turn, bos, joined = 0, True, False
        for message in conversation.with_system(self.default_system).messages:
            if message.role == "assistant":
                yield from self._answer(message)
                bos, joined = self.eos, False
                continue
            if bos:
                yield Piece("", "bos")
            turn += message.role == "user"
            yield from self._framed(message, turn, fresh=not joined)
            # the system text and the question after it are tokenised as one
            bos, joined = False, message.role == "system"

    def _has_no_place(self, message: Message) -> bool:
        return bool(message.tool_calls) or (message.role == "tool" and self.tool is None)

    def _answer(self, message: Message) -> Iterator[Piece]:
        yield from message_pieces(message, loss=message.loss, fresh=True)
        yield Piece(self.suffix, "frame", message.loss)
        if self.eos:
            yield Piece("", "eos", message.loss)
        yield Piece(self.sep, "frame", fresh=True)

    def _framed(self, message: Message, turn: int, *, fresh: bool) -> Iterator[Piece]:
        if message.role == "system":
            if self.system is None:
                raise RowError(f"template '{self.name}' has no place for a system message", "name another template")
            before, _, after = self.system.partition("{system}")
        elif message.role == "tool" and self.tool is not None:
            before, _, after = self.tool.partition("{output}")
        else:
            before, _, after = self.user.replace("{round}", str(turn)).partition("{input}")
        yield Piece(before, "frame", fresh=fresh)
        yield from message_pieces(message)
        yield Piece(after, "frame")

    def stop_id(self, tokenizer: Tokenizer) -> int | None:
        if self.eos:
            return min(tokenizer.eos_ids, default=None)
        return tokenizer.special(self.suffix)

    def check(self, tokenizer: Tokenizer) -> list[str]:
        if self.stop_id(tokenizer) is not None:
            return []
        if self.eos:
            return [f"template '{self.name}' ends answers with the end of text, and this tokenizer has no eos_token"]
        return [
            f"template '{self.name}' ends answers with '{self.suffix}', which is not one special token of this "
            f"tokenizer; choose a template that fits the model"
        ]

    def jinja(self) -> str:
        system = _jinja_frame(self.system, "{system}") if self.system else "raise_exception('no system message')"
        counted = "{% set ns.round = ns.round + 1 %}" if "{round}" in self.user else ""
        begin = "{% if ns.bos %}{{ bos_token }}{% endif %}"
        again = "true" if self.eos else "false"
        end = f"{_quote(self.suffix)} + eos_token + {_quote(self.sep)}" if self.eos else _quote(self.suffix + self.sep)
        return (
            "{% set ns = namespace(bos=true, round=0) %}" + self._jinja_default() + "{% for message in messages %}"
            "{% if message['role'] == 'assistant' %}{{ message['content'] + " + end + " }}"
            "{% set ns.bos = "
            + again
            + " %}"
            + self._jinja_tool(begin)
            + "{% elif message['role'] == 'system' %}"
            + begin
            + "{{ "
            + system
            + " }}{% set ns.bos = false %}"
            "{% else %}" + begin + counted + "{{ " + _jinja_frame(self.user, "{input}") + " }}"
            "{% set ns.bos = false %}{% endif %}{% endfor %}"
        )

    def _jinja_default(self) -> str:
        if self.default_system is None or self.system is None:
            return ""
        said = _quote(self.system.replace("{system}", self.default_system))
        return (
            "{% if messages[0]['role'] != 'system' %}{{ bos_token + " + said + " }}{% set ns.bos = false %}{% endif %}"
        )

    def _jinja_tool(self, begin: str) -> str:
        if self.tool is None:
            return ""
        said = _jinja_frame(self.tool, "{output}")
        return "{% elif message['role'] == 'tool' %}" + begin + "{{ " + said + " }}{% set ns.bos = false %}"


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def _jinja_frame(frame: str, mark: str) -> str:
    before, _, after = (_quote(part) for part in frame.partition(mark))
    return f"{before} + message['content'] + {after}".replace("{round}", "' ~ ns.round ~ '")


@cache
def _data(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files("ftx.data") / f"{name}_templates.json").read_text("utf-8"))
    return found


@cache
def named_templates() -> dict[str, NamedTemplate]:
    """All prompt templates by name."""
    return {name: NamedTemplate(name=name, **{**row, "stop": tuple(row["stop"])}) for name, row in _prompts()}


def _prompts() -> Iterator[tuple[str, dict[str, Any]]]:
    yield from _data("xtuner")["prompts"].items()
    yield from _data("family")["prompts"].items()


def system_texts() -> dict[str, str]:
    """XTuner's system texts by name."""
    found: dict[str, str] = _data("xtuner")["systems"]
    return found


def system_text(name: str) -> str:
    """One of XTuner's system texts. Raises RecipeError for an unknown name."""
    known = system_texts()
    if name not in known:
        raise RecipeError(f"system_template: '{name}' is not known; {did_you_mean(name, known)}")
    return known[name]
