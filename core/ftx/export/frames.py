"""What a template writes around messages, as plain text: for engines that know templates as prefixes and suffixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftx.data.conversation import Conversation, Message, RowError
from ftx.data.template import Template
from ftx.data.tokens import Tokenizer
from ftx.errors import ModelError

# Conversations that the frames are read from, and proven on.
TURNS = tuple(Message("assistant" if i % 2 else "user", f"words{i}") for i in range(5))
SYSTEM = Message("system", "rules")


@dataclass(frozen=True)
class Frames:
    """A prompt is `bos`, then `opening` or a framed system message, then framed questions and answers in turn.

    `user` ends where the answer begins; `after` stands between an answer and the next question's frame. `system` is
    None where the template has no place for one. `default_system` is the system text in `opening`, if there is one.
    `stop` are the texts that end an answer.
    """

    bos: str
    opening: str
    system: tuple[str, str] | None
    user: tuple[str, str]
    after: str
    stop: tuple[str, ...]

    @property
    def default_system(self) -> str | None:
        if self.system is None or not self.opening:
            return None
        before, after = self.system
        if not (self.opening.startswith(before) and self.opening.endswith(after)):
            return None
        return self.opening[len(before) : len(self.opening) - len(after)]

    def prompt(self, messages: Sequence[Message]) -> str:
        """The whole text before the next answer."""
        text = self.bos if messages[0].role == "system" else self.bos + self.opening
        for message in messages:
            if message.role == "assistant":
                text += message.content + self.after
            else:
                before, after = self.user if message.role == "user" else self.system or ("", "")
                text += before + message.content + after
        return text


def frames_of(template: Template, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> Frames:
    """The template's frames, proven on conversations of up to three questions, with a system message and without.

    Raises ModelError for a template that is more than frames, as one that numbers its turns.
    """
    first, then, between, _ = _around(template, tokenizer, TURNS[:3])
    try:
        head, behind = _around(template, tokenizer, (SYSTEM, *TURNS[:1]))[:2]
        system: tuple[str, str] | None = (head, behind)
    except RowError:
        system = None
    stop = tuple(dict.fromkeys(tokenizer.decode([i]) for i in stop_ids))
    bos = tokenizer.bos if tokenizer.bos and first.startswith(tokenizer.bos) else ""
    first = first.removeprefix(bos)
    asked = _common_end([first, between, *(system[1:] if system else ())])
    for end in stop:
        asked = asked.removeprefix(end)
    cut = len(asked)
    frames = Frames(
        bos=bos,
        opening=first[: len(first) - cut],
        system=(system[0].removeprefix(bos), system[1][: len(system[1]) - cut]) if system else None,
        user=(asked, then),
        after=between[: len(between) - cut],
        stop=stop,
    )
    _prove(frames, template, tokenizer)
    return frames


def _prove(frames: Frames, template: Template, tokenizer: Tokenizer) -> None:
    heads = [()] if frames.system is None else [(), (SYSTEM,)]
    for head in heads:
        for turns in (1, 3, 5):
            messages = (*head, *TURNS[:turns])
            if frames.prompt(messages) != written(template, tokenizer, messages):
                raise ModelError(
                    f"template '{template.name}' is more than texts around messages, so that no engine can be told it "
                    f"by prefixes and suffixes; serve it with an engine that reads chat_template.jinja"
                )


def written(template: Template, tokenizer: Tokenizer, messages: Sequence[Message]) -> str:
    """The prompt's text as the template writes it, its special tokens by their names. Raises RowError."""
    own = {"bos": tokenizer.bos, "eos": str(tokenizer.hf.eos_token or "")}
    pieces = template.pieces(Conversation(tuple(messages)), answer_next=True)
    return "".join(own.get(piece.kind, piece.text) for piece in pieces)


def _around(template: Template, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[str]:
    """The template's own texts: before the first message, between each two, and before the next answer."""
    rest, texts = written(template, tokenizer, messages), []
    for message in messages:
        before, _, rest = rest.partition(message.content)
        texts.append(before)
    return [*texts, rest]


def _common_end(texts: Sequence[str]) -> str:
    alike = 0
    while alike < min(map(len, texts)) and len({text[-1 - alike] for text in texts}) == 1:
        alike += 1
    return texts[0][len(texts[0]) - alike :]
