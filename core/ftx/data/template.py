"""Prompt templates: a conversation becomes pieces of text, pieces become ids and labels.

Ids and labels of XTuner's 26 templates equal those of its 0.1.23 (reference: xtuner_encode.json), with one difference
on purpose: a special token typed inside a message stays ordinary text, unless `typed_specials` allows it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ftx.data.conversation import IMAGE, Conversation, Message, Picture, RowError

if TYPE_CHECKING:
    from ftx.data.tokens import Tokenizer

IGNORE = -100  # the label that cross entropy skips
IMAGE_ID = -200  # stands wherever a feature of a picture does; the number that LLaVA and XTuner give to images


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
class Placed:
    """A picture and its tokens, those from `start` up to `stop` of a row."""

    picture: Picture
    start: int
    stop: int


@dataclass(frozen=True)
class Encoded:
    """Token ids, for each a byte, 1 when it is learnt, and the pictures among them."""

    ids: list[int]
    learnt: bytes
    pictures: tuple[Placed, ...] = ()

    @property
    def labels(self) -> list[int]:
        """Of each token its id, or IGNORE when it is not learnt; not shifted."""
        return [i if learnt else IGNORE for i, learnt in zip(self.ids, self.learnt, strict=True)]

    def part(self, start: int, stop: int) -> Encoded:
        """The tokens from `start` up to `stop`, or up to a picture that would not be whole. None may begin earlier."""
        stop = min([stop, *(one.start for one in self.pictures if one.stop > stop)])
        whole = [Placed(p.picture, p.start - start, p.stop - start) for p in self.pictures if start <= p.start < stop]
        return Encoded(self.ids[start:stop], self.learnt[start:stop], tuple(whole))

    def times_learnt(self, token: int) -> int:
        """How often the token with that id is learnt."""
        found, at = 0, -1
        for _ in range(self.ids.count(token)):
            at = self.ids.index(token, at + 1)
            found += self.learnt[at]
        return found


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
        from ftx.data.encode import Encoder

        (row,) = Encoder(self, tokenizer, typed_specials=typed_specials).rows([conversation])
        if isinstance(row, RowError):
            raise row
        return row

    def prompt(
        self, messages: Sequence[Message], tokenizer: Tokenizer, images: Iterable[tuple[int, ...]] = ()
    ) -> list[int]:
        """Ids after which the assistant's next answer begins. `images` are the ids of the images, in order."""
        from ftx.data.encode import units

        pieces = self.pieces(Conversation(tuple(messages)), answer_next=True)
        found = units(pieces, tokenizer, images=images)
        return [i for text, ids, _ in found for i in (tokenizer.encode_text(text) if text else ids)]


def message_pieces(message: Message, *, loss: bool = False, fresh: bool = False) -> Iterator[Piece]:
    """A message's own text and images."""
    if not message.images:
        yield Piece(message.content, "text", loss, fresh)
        return
    for i, text in enumerate(message.content.split(IMAGE)):
        if i:
            yield Piece(message.images[i - 1], "image")
        yield Piece(text, "text", loss, fresh and not i)
