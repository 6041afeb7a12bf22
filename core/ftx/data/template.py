"""Prompt templates: a conversation becomes pieces of text, pieces become ids and labels.

Ids and labels of XTuner's 26 templates equal those of its 0.1.23 (reference: xtuner_encode.json), with one difference
on purpose: a special token typed inside a message stays ordinary text, unless `typed_specials` allows it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ftx.data.conversation import IMAGE, Conversation, Message, RowError

if TYPE_CHECKING:
    from ftx.data.tokens import Tokenizer

IGNORE = -100  # the label that cross entropy skips
IMAGE_ID = -200  # stands for an image until its family knows how many tokens it takes; XTuner's number


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of rendered text.

    `kind`: "text" is somebody's message, "frame" the template's own, whose special tokens count as such, "image" an
    image; "bos" and "eos" are the tokenizer's. A `fresh` piece is tokenised apart from what stands before it.
    """

    text: str
    kind: Literal["text", "frame", "bos", "eos", "image"]
    loss: bool = False
    fresh: bool = False


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels of equal length; a label is its id or IGNORE (not shifted)."""

    ids: list[int]
    labels: list[int]


class Template(ABC):
    """Renders conversations. `stop`: texts of the tokens that end an answer besides the tokenizer's end of text."""

    name: str
    stop: tuple[str, ...]

    @abstractmethod
    def pieces(self, conversation: Conversation, *, answer_next: bool = False) -> Iterable[Piece]:
        """The rendered conversation; with `answer_next` it ends where the assistant is to speak.

        Raises RowError for a conversation the template cannot express.
        """

    @abstractmethod
    def jinja(self) -> str:
        """The same template as a Jinja chat template, which travels with the artefact."""

    @abstractmethod
    def stop_id(self, tokenizer: Tokenizer) -> int | None:
        """The id that ends every learnt answer, None when that is not one special token of the tokenizer."""

    @abstractmethod
    def check(self, tokenizer: Tokenizer) -> list[str]:
        """One sentence per reason why a model could not learn to stop with this template and tokenizer."""

    def stop_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Ids that end an answer in generation: the template's stop tokens and the tokenizer's end of text."""
        ids = {tokenizer.special(token) for token in self.stop} | set(tokenizer.eos_ids) | {self.stop_id(tokenizer)}
        return sorted(i for i in ids if i is not None)

    def encode(self, conversation: Conversation, tokenizer: Tokenizer, *, typed_specials: bool = False) -> Encoded:
        """Ids and labels of a whole training row. Raises RowError."""
        (row,) = encode_rows([conversation], self, tokenizer, typed_specials=typed_specials)
        if isinstance(row, RowError):
            raise row
        return row

    def prompt(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """Ids after which the assistant's next answer begins."""
        asked = Conversation(tuple(messages))
        units = list(_units(self.pieces(asked, answer_next=True), tokenizer, typed_specials=False))
        return [i for text, ids, _ in units for i in (tokenizer.encode_text(text) if text else ids)]


# A unit is tokenised in one go and labelled alike: (text, (), loss), or ("", ids, loss) when its ids are known.
Unit = tuple[str, tuple[int, ...], bool]


def encode_rows(
    conversations: Iterable[Conversation], template: Template, tokenizer: Tokenizer, *, typed_specials: bool = False
) -> list[Encoded | RowError]:
    """Ids and labels of many rows, or what is wrong with each.

    Neighbouring text is tokenised in one go as long as it is labelled alike, so that a question meets its template as
    it will at inference; an answer begins on a token of its own. All texts go to the tokenizer in one batch, every
    different one once.
    """
    rows: list[list[Unit] | RowError] = []
    for conversation in conversations:
        try:
            rows.append(_row_units(conversation, template, tokenizer, typed_specials))
        except RowError as error:
            rows.append(error)
    texts = {text for row in rows if isinstance(row, list) for text, _, _ in row if text}
    ids = tokenizer.encode_texts(texts, specials=typed_specials)
    return [row if isinstance(row, RowError) else _joined(row, ids) for row in rows]


def _joined(row: list[Unit], known: dict[str, list[int]]) -> Encoded:
    ids: list[int] = []
    labels: list[int] = []
    for text, fixed, loss in row:
        new = known[text] if text else fixed
        ids += new
        labels += new if loss else [IGNORE] * len(new)
    return Encoded(ids, labels)


def _row_units(conversation: Conversation, template: Template, tokenizer: Tokenizer, typed: bool) -> list[Unit]:
    for message in conversation.messages:
        refuse_half_characters(message.content)
    if conversation.messages[0].role == "text":
        return list(_units(_text_pieces(conversation.messages[0]), tokenizer, typed))
    return list(_units(template.pieces(conversation), tokenizer, typed))


def refuse_half_characters(text: str) -> None:
    """JSON can spell half of a surrogate pair, which is no character and has no tokens. Raises RowError."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise RowError(f"the text holds half a character ({half})", "write the row as whole UTF-8") from None


def _text_pieces(message: Message) -> Iterator[Piece]:
    yield Piece("", "bos")
    yield from message_pieces(message, loss=True)
    if message.ends:
        yield Piece("", "eos", loss=True)


def message_pieces(message: Message, *, loss: bool = False, fresh: bool = False) -> Iterator[Piece]:
    """A message's own text and images."""
    if not message.images:
        yield Piece(message.content, "text", loss, fresh)
        return
    for i, text in enumerate(message.content.split(IMAGE)):
        if i:
            yield Piece(message.images[i - 1], "image")
        yield Piece(text, "text", loss, fresh and not i)


def _units(pieces: Iterable[Piece], tokenizer: Tokenizer, typed_specials: bool) -> Iterator[Unit]:
    text, labelled = "", False
    for piece in pieces:
        if text and (piece.fresh or piece.loss != labelled):
            yield text, (), labelled
            text = ""
        labelled = piece.loss
        if piece.kind == "text" or (typed_specials and piece.kind == "frame"):
            text += piece.text
        elif piece.kind == "frame":
            for part in tokenizer.split_specials(piece.text):
                special = tokenizer.special(part)
                if special is None:
                    text += part
                    continue
                if text:
                    yield text, (), labelled
                    text = ""
                yield "", (special,), labelled
        else:
            if text:
                yield text, (), labelled
                text = ""
            yield "", _fixed(piece, tokenizer), labelled
    if text:
        yield text, (), labelled


def _fixed(piece: Piece, tokenizer: Tokenizer) -> tuple[int, ...]:
    if piece.kind == "image":
        return (IMAGE_ID,)
    if piece.kind == "eos":
        return tuple(sorted(tokenizer.eos_ids))
    bos = tokenizer.special(tokenizer.bos)
    return () if bos is None else (bos,)
