"""From records to samples: parsed, rendered, tokenised, proven, made to fit, and every row accounted for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from ftx.contracts import ImageProcessor, Record
from ftx.data.conversation import Conversation, Picture, RowError
from ftx.data.encode import Encoder
from ftx.data.images import look_at
from ftx.data.ledger import Ledger, Reject
from ftx.data.overlong import Fitter, Policy
from ftx.data.sets import DataSet
from ftx.data.template import Encoded, Template
from ftx.data.tokens import Tokenizer
from ftx.errors import RecipeError

BATCH = 1024  # rows tokenised at once


@dataclass(frozen=True)
class Preparation:
    """All that turns conversations into samples.

    `typed_specials` lets special tokens written in messages count as such. `images` is how the model sees pictures,
    None when it does not.
    """

    template: Template
    tokenizer: Tokenizer
    max_length: int
    overlong: Policy = "truncate"
    typed_specials: bool = False
    images: ImageProcessor | None = None

    def key(self) -> dict[str, Any]:
        """What a sample depends on besides its row, as JSON values."""
        return {
            "template": self.template.name,
            "jinja": self.template.jinja(),
            "tokenizer": self.tokenizer.fingerprint,
            "max_length": self.max_length,
            "overlong": self.overlong,
            "typed_specials": self.typed_specials,
            "images": dict(self.images.key()) if self.images else None,
        }

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.template, self.tokenizer, typed_specials=self.typed_specials, images=self.images)

    def rows(self, conversations: Sequence[Conversation]) -> list[Encoded | RowError]:
        """The row of each conversation, or what is wrong with it. Raises RecipeError for an unproven stop token."""
        found = self.encoder.rows(conversations)
        return [
            self._proven(conversation, row) if isinstance(row, Encoded) else row
            for conversation, row in zip(conversations, found, strict=True)
        ]

    def _proven(self, conversation: Conversation, row: Encoded) -> Encoded | RowError:
        """The row, when each learnt answer has its stop token once. Raises RecipeError when one has none."""
        if self.stop is None or conversation.messages[0].role == "text":
            return row
        found, stop = row.times_learnt(self.stop), self.tokenizer.decode([self.stop])
        if found < conversation.learnt_turns:
            raise RecipeError(
                f"template '{self.template.name}' leaves an answer without its labelled stop token '{stop}', so the "
                "model would not learn to stop; name another template"
            )
        if found > conversation.learnt_turns:
            return RowError(f"an answer holds the stop token '{stop}' within", "remove it, or leave typed_specials out")
        return row

    def encode(self, conversation: Conversation) -> Encoded:
        """One conversation's row. Raises RowError, RecipeError."""
        (row,) = self.rows([conversation])
        if isinstance(row, RowError):
            raise row
        return row

    @cached_property
    def stop(self) -> int | None:
        """The id that ends every learnt answer."""
        return self.template.stop_id(self.tokenizer)

    def answers(self, row: Encoded, conversation: Conversation) -> int:
        """How many answers of a conversation the row teaches to the end; plain text has none."""
        if self.stop is None or conversation.messages[0].role == "text":
            return 0
        return row.times_learnt(self.stop)


def samples_of(
    one: DataSet, how: Preparation, ledger: Ledger, rejected: Callable[[Reject], object]
) -> Iterator[Encoded]:
    """The samples of a set's rows in order. Every row is counted in `ledger`; a rejected one is handed over too.

    Raises DataError for what cannot be read at all; RecipeError when an answer's stop token cannot be proven.
    """
    fitter = Fitter(how.overlong, how.max_length, how.tokenizer, how.encode)
    source = one.source.records()
    while records := list(islice(source, BATCH)):
        for record, outcome in zip(records, _outcomes(one, records, how, fitter), strict=True):
            try:
                samples = _samples(outcome, ledger, fitter, how)
            except RowError as error:
                reject = Reject(record.file, record.line, error.reason, error.remedy)
                ledger.reject(reject)
                rejected(reject)
                continue
            yield from samples


# a row's conversations with their tokens, None for one too long to read; or what is wrong with the row
Outcome = list[tuple[Conversation, Encoded | None]] | RowError


def _outcomes(one: DataSet, records: list[Record], how: Preparation, fitter: Fitter) -> list[Outcome]:
    read = _seen([_read(one, record, how) for record in records], [one.images_in(record) for record in records])
    short = [c for row in read if isinstance(row, list) for c in row if not fitter.too_long_to_read(c)]
    encoded = iter(how.rows(short))
    return [row if isinstance(row, RowError) else _outcome(row, encoded, fitter) for row in read]


def _outcome(row: list[Conversation], encoded: Iterator[Encoded | RowError], fitter: Fitter) -> Outcome:
    """The row with its tokens, which are taken from `encoded` in order, also where one of them is an error."""
    taken = [None if fitter.too_long_to_read(conversation) else next(encoded) for conversation in row]
    for tokens in taken:
        if isinstance(tokens, RowError):
            return tokens
    return [(c, tokens) for c, tokens in zip(row, taken, strict=True) if not isinstance(tokens, RowError)]


def _read(one: DataSet, record: Record, how: Preparation) -> list[Conversation] | RowError:
    try:
        conversations = one.conversations(record)
    except RowError as error:
        return error
    if how.images is None and any(conversation.images for conversation in conversations):
        return RowError("the row has an image, which this model family does not read", "remove it or its image")
    return conversations


Row = list[Conversation] | RowError


def _seen(rows: list[Row], folders: list[Path]) -> list[Row]:
    """The rows with their pictures looked at, each once and many at a time, or with what is wrong with one of them."""
    named = {
        (folder, name): None
        for row, folder in zip(rows, folders, strict=True)
        if isinstance(row, list)
        for conversation in row
        for name in conversation.images
    }
    if not named:
        return rows
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without holding the interpreter's lock
        found = dict(zip(named, pool.map(lambda place: _look(*place), named), strict=True))
    return [_with_pictures(row, folder, found) for row, folder in zip(rows, folders, strict=True)]


def _look(folder: Path, name: str) -> Picture | RowError:
    try:
        return look_at(folder, name)
    except RowError as error:
        return error


def _with_pictures(row: Row, folder: Path, found: Mapping[tuple[Path, str], Picture | RowError]) -> Row:
    if isinstance(row, RowError):
        return row
    names = {name: found[folder, name] for conversation in row for name in conversation.images}
    pictures: dict[str, Picture] = {}
    for name, seen in names.items():
        if isinstance(seen, RowError):
            return seen
        pictures[name] = seen
    return [conversation.with_pictures(pictures) for conversation in row]


def _samples(outcome: Outcome, ledger: Ledger, fitter: Fitter, how: Preparation) -> list[Encoded]:
    """What of a row is trained on, counted. Raises RowError when nothing is."""
    if isinstance(outcome, RowError):
        raise outcome
    fitted = [fitter.fit(conversation, row) for conversation, row in outcome]
    truncated = any(one.truncated for one in fitted)
    learnt = [sample for one in fitted for sample in one.samples if sample.learnt.find(1, 1) > 0]
    if not learnt:
        raise RowError(*_nothing_to_learn(truncated, fitter.limit))
    for sample in learnt:
        ledger.labelled += sample.learnt.count(1, 1)
        ledger.tokens += len(sample.ids)
        ledger.longest = max(ledger.longest, len(sample.ids))
    ledger.samples += len(learnt)
    pairs = zip(fitted, outcome, strict=True)
    ledger.answers += sum(how.answers(sample, c) for one, (c, _) in pairs for sample in one.samples)
    ledger.truncated += truncated
    ledger.kept += not truncated
    return learnt


def _nothing_to_learn(too_long: bool, limit: int) -> tuple[str, str]:
    if too_long:
        return f"no answer begins within {limit} tokens", "raise data.max_length or shorten the question"
    return "no token of the row is learnt", "set loss on an answer or remove the row"
