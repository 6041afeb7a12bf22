"""Conversations to token ids: many at once, and what recurs only once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ftx.data.conversation import Conversation, Message, Picture, RowError, refuse_strange_characters
from ftx.data.template import IMAGE_ID, Encoded, Piece, Placed, Template, message_pieces
from ftx.data.tokens import Tokenizer

if TYPE_CHECKING:
    from ftx.contracts import ImageProcessor

# A unit is tokenised in one go and labelled alike: (text, (), loss), or ("", ids, loss) when its ids are known.
Unit = tuple[str, tuple[int, ...], bool]

# Characters from the private use area stand for messages while a shape is rendered, one each; no template has them.
_FIRST, _LAST = 0xE100, 0xF800
_PLACE = re.compile(f"([{chr(_FIRST)}-{chr(_LAST)}])")

Shape = tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class _Step:
    """Part of a rendered shape: ids that never change, or texts and numbers of messages that are joined to one text."""

    ids: list[int]
    parts: tuple[str | int, ...]
    loss: bool


class Encoder:
    """Turns conversations into ids and what is learnt of them, by one template and tokenizer.

    Neighbouring text is tokenised in one go as long as it is labelled alike, so that a question meets its template as
    it will at inference; an answer begins on a token of its own. All texts of a call go to the tokenizer in one
    batch, every different one once; what the template says around messages of the same roles is rendered once.
    `typed_specials` lets special tokens written in messages count as such. `images` says how many tokens pictures
    take; without it each is one IMAGE_ID.
    """

    def __init__(
        self,
        template: Template,
        tokenizer: Tokenizer,
        *,
        typed_specials: bool = False,
        images: ImageProcessor | None = None,
    ) -> None:
        self._images = images
        self._template = template
        self._tokenizer = tokenizer
        self._typed = typed_specials
        self._shapes: dict[Shape, list[_Step]] = {}

    def rows(self, conversations: Iterable[Conversation]) -> list[Encoded | RowError]:
        """Each conversation's row, or what is wrong with it."""
        planned: list[list[Unit] | RowError] = []
        pictures: list[list[Picture]] = []
        for conversation in conversations:
            pictures.append(conversation.pictures)
            try:
                planned.append(self._units(conversation))
            except RowError as error:
                planned.append(error)
        texts = {text for row in planned if isinstance(row, list) for text, _, _ in row if text}
        ids = self._tokenizer.encode_texts(texts, specials=self._typed)
        return [
            row if isinstance(row, RowError) else _joined(row, ids, shown)
            for row, shown in zip(planned, pictures, strict=True)
        ]

    def _units(self, conversation: Conversation) -> list[Unit]:
        for message in conversation.messages:
            refuse_strange_characters(message.content)
        images = self._laid_out(conversation.pictures)
        if conversation.messages[0].role == "text":
            return list(units(_text_pieces(conversation.messages[0]), self._tokenizer, self._typed, images))
        if not self._is_plain(conversation):
            return list(units(self._template.pieces(conversation), self._tokenizer, self._typed, images))
        said = [message.content for message in conversation.messages]
        return [
            ("".join([part if isinstance(part, str) else said[part] for part in step.parts]), (), step.loss)
            if step.parts
            else ("", tuple(step.ids), step.loss)
            for step in self._steps(conversation)
        ]

    def _laid_out(self, pictures: list[Picture]) -> list[tuple[int, ...]]:
        if self._images is None or not pictures:
            return []
        return self._images.lay_out([(picture.width, picture.height) for picture in pictures])

    def _is_plain(self, conversation: Conversation) -> bool:
        """Whether what the template says can depend on nothing but roles."""
        if self._typed or conversation.tools or len(conversation.messages) > _LAST - _FIRST:
            return False
        return not any(
            m.images or m.tool_calls or not m.content or m.content[0].isspace() or m.content[-1].isspace()
            for m in conversation.messages
        )

    def _steps(self, conversation: Conversation) -> list[_Step]:
        shape = tuple([(message.role, message.loss) for message in conversation.messages])
        if shape not in self._shapes:
            self._shapes[shape] = self._rendered(conversation)
        return self._shapes[shape]

    def _rendered(self, conversation: Conversation) -> list[_Step]:
        placed = tuple(replace(m, content=chr(_FIRST + i)) for i, m in enumerate(conversation.messages))
        steps: list[_Step] = []
        for text, ids, loss in units(self._template.pieces(Conversation(placed)), self._tokenizer):
            cut = [part for part in _PLACE.split(text) if part]
            parts = tuple(ord(part) - _FIRST if _PLACE.fullmatch(part) else part for part in cut)
            if any(isinstance(part, int) for part in parts):
                steps.append(_Step([], parts, loss))
            else:
                steps.append(_Step(self._tokenizer.encode_text(text) if text else list(ids), (), loss))
        return steps


def _joined(row: list[Unit], known: dict[str, list[int]], pictures: list[Picture]) -> Encoded:
    ids: list[int] = []
    learnt: list[bytes] = []
    placed: list[Placed] = []
    for text, fixed, loss in row:
        new = known[text] if text else fixed
        if pictures and IMAGE_ID in fixed:
            placed.append(Placed(pictures[len(placed)], len(ids), len(ids) + len(fixed)))
        ids += new
        learnt.append((b"\1" if loss else b"\0") * len(new))
    return Encoded(ids, b"".join(learnt), tuple(placed))


def _text_pieces(message: Message) -> Iterator[Piece]:
    yield Piece("", "bos")
    yield from message_pieces(message, loss=True)
    if message.ends:
        yield Piece("", "eos", loss=True)


def units(
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    typed_specials: bool = False,
    images: Iterable[tuple[int, ...]] = (),
) -> Iterator[Unit]:
    """The pieces, joined to what is tokenised in one go. `images` are the ids of the images, in order."""
    text, labelled = "", False
    laid_out = iter(images)
    for piece in pieces:
        loss, kind = piece.loss, piece.kind
        if text and (piece.fresh or loss != labelled):
            yield text, (), labelled
            text = ""
        labelled = loss
        if kind == "text" or (typed_specials and kind == "frame"):
            text += piece.text
            continue
        for part in tokenizer.parts(piece.text) if kind == "frame" else (_fixed(piece, tokenizer, laid_out),):
            if isinstance(part, str):
                text += part
                continue
            if text:
                yield text, (), loss
                text = ""
            yield "", part, loss
    if text:
        yield text, (), labelled


def _fixed(piece: Piece, tokenizer: Tokenizer, images: Iterator[tuple[int, ...]]) -> tuple[int, ...]:
    if piece.kind == "image":
        return next(images, (IMAGE_ID,))
    if piece.kind == "eos":
        return tuple(sorted(tokenizer.eos_ids))
    bos = tokenizer.special(tokenizer.bos)
    return () if bos is None else (bos,)
