"""From data sources to token rows on disk, every row accounted for."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ftx.contracts import DataFormat, DataSource, Record
from ftx.data.cache import cached
from ftx.data.conversation import Conversation, RowError
from ftx.data.encode import Encoder
from ftx.data.images import check_image
from ftx.data.ledger import REMEMBERED, Ledger, Reject
from ftx.data.overlong import Fitter, Policy
from ftx.data.store import FILES, Store, Writer
from ftx.data.template import Encoded, Template
from ftx.data.tokens import Tokenizer
from ftx.errors import DataError, RecipeError

if TYPE_CHECKING:
    from ftx.plugins import Registry

SAMPLE = 20  # rows that detection looks at
SHOWN = 5  # rejected rows that a refusal spells out
BATCH = 1024  # rows tokenised at once
REJECTS = "rejects.jsonl"
ACCOUNT = "ledger.json"


@dataclass(frozen=True)
class DataSet:
    """One source with the format of its rows; `evidence` is what the format was recognised by."""

    source: DataSource
    format: DataFormat
    evidence: str
    system: str | None
    columns: Mapping[str, str] | None = None
    image_folder: Path | None = None

    def conversations(self, record: Record) -> list[Conversation]:
        """The record's conversations, nearly always one, with the set's system message. Raises RowError."""
        value = renamed(record.value, self.columns)
        return [found.with_system(self.system) for found in self.format.parse_all(value)]

    def images_in(self, record: Record) -> Path:
        """The folder that the record's image paths start from."""
        return self.image_folder or self.source.image_folder(record)


def renamed(value: Any, columns: Mapping[str, str] | None) -> Any:
    """`value` with only the mapped columns, each under its new name; unchanged without `columns`.

    Raises RowError when a column is missing, or the row was broken as it was read.
    """
    if isinstance(value, RowError):
        raise value
    if columns is None:
        return value
    if not isinstance(value, dict):
        raise RowError(f"expected named columns, found {type(value).__name__}", "leave out columns")
    for own in columns.values():
        if own not in value:
            raise RowError(f"there is no column '{own}'", f"map one of {', '.join(map(repr, value))}")
    return {name: value[own] for name, own in columns.items()}


def open_set(
    source: DataSource,
    format_name: str,
    system: str | None,
    registry: Registry,
    columns: Mapping[str, str] | None = None,
    image_folder: Path | None = None,
) -> DataSet:
    """The set with its format, found from the first rows when `format_name` is "auto". Raises DataError."""
    chosen, evidence = (
        (registry.format(format_name)(), "named in the recipe")
        if format_name != "auto"
        else _detected(source, registry, columns)
    )
    if chosen.refusal:
        raise DataError(f"{next(source.records()).file}: {evidence}: {chosen.refusal}")
    return DataSet(source, chosen, evidence, system, columns, image_folder)


def _detected(source: DataSource, registry: Registry, columns: Mapping[str, str] | None) -> tuple[DataFormat, str]:
    sample: list[Record] = []
    wrong: Reject | None = None
    for record in islice(source.records(), SAMPLE):
        try:
            sample.append(replace(record, value=renamed(record.value, columns)))
        except RowError as error:
            wrong = wrong or Reject(record.file, record.line, error.reason, error.remedy)
    if wrong and not sample:
        raise DataError(wrong.sentence())
    found = detect([record.value for record in sample], registry)
    if found is None:
        raise DataError(_unknown_format(sample[0], registry))
    return found


def detect(sample: list[Any], registry: Registry) -> tuple[DataFormat, str] | None:
    """The format of most sampled rows, with the evidence; it must know the first row or more than half of them."""
    best: tuple[int, DataFormat, str] | None = None
    for candidate in registry.formats():
        found = candidate()
        seen = [found.recognise(value) for value in sample]
        evidence = [one for one in seen if one]
        if evidence and (seen[0] or 2 * len(evidence) > len(sample)) and len(evidence) > (best[0] if best else 0):
            best = (len(evidence), found, evidence[0])
    if best is None:
        return None
    count, chosen, what = best
    return chosen, what if count == len(sample) else f"{what} in {count} of {len(sample)} rows"


def _unknown_format(first: Record, registry: Registry) -> str:
    value = first.value
    seen = "keys " + ", ".join(map(repr, value)) if isinstance(value, dict) else type(value).__name__
    known = ", ".join(f.name for f in registry.formats())
    return f"{first.file}: row {first.line} has {seen}, which is no known format ({known}); name one with format:"


@dataclass(frozen=True)
class Preparation:
    """All that turns conversations into samples.

    `typed_specials` lets special tokens written in messages count as such. `reads_images` says whether the model does.
    """

    template: Template
    tokenizer: Tokenizer
    max_length: int
    overlong: Policy = "truncate"
    typed_specials: bool = False
    reads_images: bool = False

    def key(self) -> dict[str, Any]:
        """What a sample depends on besides its row, as JSON values."""
        return {
            "template": self.template.name,
            "jinja": self.template.jinja(),
            "tokenizer": self.tokenizer.fingerprint,
            "max_length": self.max_length,
            "overlong": self.overlong,
            "typed_specials": self.typed_specials,
            "reads_images": self.reads_images,
        }

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.template, self.tokenizer, typed_specials=self.typed_specials)

    def encode(self, conversation: Conversation) -> Encoded:
        """One conversation's row. Raises RowError."""
        (row,) = self.encoder.rows([conversation])
        if isinstance(row, RowError):
            raise row
        return row


@dataclass
class Prepared:
    """A store, an account and a content hash for each set, and the account of all of them."""

    stores: list[Store] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)

    @property
    def digests(self) -> list[str]:
        """sha256 of each set's samples."""
        return [str(_account(folder)["digest"]) for folder in self.folders]

    @property
    def ledger(self) -> Ledger:
        whole = Ledger()
        for ledger in self.ledgers:
            whole.add(ledger)
        return whole

    def rejects(self) -> Iterator[str]:
        """The rejected rows of all sets as lines of rejects.jsonl."""
        for folder in self.folders:
            with (folder / REJECTS).open(encoding="utf-8") as lines:
                yield from lines


def prepare(sets: list[DataSet], how: Preparation, versions: Mapping[str, str]) -> Prepared:
    """Parse, render and tokenise every row of every set, or find that done before.

    `versions` names the code that reads the rows, so that another version does it anew. Raises DataError;
    RecipeError when the stop token of an answer cannot be proven.
    """
    prepared = Prepared()
    for one in sets:
        content = one.source.fingerprint()
        key = {"set": _set_key(one, content), "how": how.key(), "versions": dict(versions)}
        folder = cached(key, lambda folder, one=one: _make(folder, one, how), _whole)  # type: ignore[misc]
        prepared.hashes.append(content)
        prepared.folders.append(folder)
        prepared.stores.append(Store(folder))
        prepared.ledgers.append(_ledger(folder))
    return prepared


def _set_key(one: DataSet, content: str) -> dict[str, Any]:
    return {
        "content": content,
        "source": {"name": one.source.name, **one.source.model_dump(mode="json")},
        "format": {"name": one.format.name, **one.format.model_dump(mode="json")},
        "system": one.system,
        "columns": dict(one.columns) if one.columns else None,
        "images": str(one.image_folder),
    }


def _whole(folder: Path) -> bool:
    names = [*(f"{name}.bin" for name in FILES), REJECTS, ACCOUNT]
    if not all((folder / name).is_file() for name in names):
        return False
    try:
        return bool(len(Store(folder)) == _ledger(folder).samples)
    except (ValueError, KeyError, TypeError):
        return False


def _ledger(folder: Path) -> Ledger:
    with (folder / REJECTS).open(encoding="utf-8") as lines:
        rejects = [Reject(**json.loads(line)) for line in islice(lines, REMEMBERED)]
    return Ledger.of(_account(folder)["ledger"], rejects)


def _account(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / ACCOUNT).read_text("utf-8"))
    return found


def _make(folder: Path, one: DataSet, how: Preparation) -> None:
    ledger = Ledger()
    fitter = Fitter(how.overlong, how.max_length, how.tokenizer.longest_token, how.encode)
    with _few_collections(), Writer(folder) as writer, (folder / REJECTS).open("w", encoding="utf-8") as rejects:
        source = one.source.records()
        while records := list(islice(source, BATCH)):
            for record, outcome in zip(records, _outcomes(one, records, how, fitter), strict=True):
                try:
                    _write(writer, ledger, fitter, outcome)
                except RowError as error:
                    _reject(rejects, ledger, Reject(record.file, record.line, error.reason, error.remedy))
        account = {"ledger": ledger.as_dict(), "digest": writer.digest()}
    (folder / ACCOUNT).write_text(json.dumps(account), "utf-8")


@contextmanager
def _few_collections() -> Iterator[None]:
    """Keep what is already there, as the modules of large libraries, out of the garbage collector's rounds.

    Rows make many short-lived objects, and every round would walk over a million others: a fifth of the time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


# a row's conversations with their tokens, None for one too long to read; or what is wrong with the row
Outcome = list[tuple[Conversation, Encoded | None]] | RowError


def _outcomes(one: DataSet, records: list[Record], how: Preparation, fitter: Fitter) -> list[Outcome]:
    read = [_read(one, record, how) for record in records]
    short = [c for row in read if isinstance(row, list) for c in row if not fitter.too_long_to_read(c)]
    encoded = iter(how.encoder.rows(short))
    return [row if isinstance(row, RowError) else _outcome(row, encoded, how, fitter) for row in read]


def _outcome(
    row: list[Conversation], encoded: Iterator[Encoded | RowError], how: Preparation, fitter: Fitter
) -> Outcome:
    """The row with its tokens, which are taken from `encoded` in order, also where one of them is an error."""
    taken = [None if fitter.too_long_to_read(conversation) else next(encoded) for conversation in row]
    for tokens in taken:
        if isinstance(tokens, RowError):
            return tokens
    pairs = [(c, tokens) for c, tokens in zip(row, taken, strict=True) if not isinstance(tokens, RowError)]
    return [(c, tokens and _proven(c, tokens, how)) for c, tokens in pairs]


def _read(one: DataSet, record: Record, how: Preparation) -> list[Conversation] | RowError:
    try:
        conversations = one.conversations(record)
        images = [name for conversation in conversations for name in conversation.images]
        if images and not how.reads_images:
            raise RowError("the row has an image, which this model family does not read", "remove it or its image")
        for name in images:
            check_image(one.images_in(record), name)
    except RowError as error:
        return error
    return conversations


def _proven(conversation: Conversation, row: Encoded, how: Preparation) -> Encoded:
    """The row, each learnt answer of which ends in one labelled stop token. Raises RecipeError when one does not."""
    stop = how.template.stop_id(how.tokenizer)
    if conversation.messages[0].role == "text" or stop is None:
        return row
    if row.times_learnt(stop) < conversation.learnt_turns:
        raise RecipeError(
            f"template '{how.template.name}' leaves an answer without its labelled stop token "
            f"'{how.tokenizer.decode([stop])}', so the model would not learn to stop; name another template"
        )
    return row


def _write(writer: Writer, ledger: Ledger, fitter: Fitter, outcome: Outcome) -> None:
    if isinstance(outcome, RowError):
        raise outcome
    fitted = [fitter.fit(conversation, row) for conversation, row in outcome]
    truncated = any(one.truncated for one in fitted)
    learnt = [sample for one in fitted for sample in one.samples if sample.learnt.find(1, 1) > 0]
    if not learnt:
        raise RowError(*_nothing_to_learn(truncated, fitter.limit))
    for one in learnt:
        ledger.labelled += writer.add(one)
        ledger.tokens += len(one.ids)
        ledger.longest = max(ledger.longest, len(one.ids))
    ledger.samples += len(learnt)
    ledger.answers += sum(conversation.learnt_turns for conversation, _ in outcome)
    ledger.truncated += truncated
    ledger.kept += not truncated


def _nothing_to_learn(too_long: bool, limit: int) -> tuple[str, str]:
    if too_long:
        return f"no answer begins within {limit} tokens", "raise data.max_length or shorten the question"
    return "no token of the row is learnt", "set loss on an answer or remove the row"


def _reject(rejects: TextIO, ledger: Ledger, reject: Reject) -> None:
    ledger.reject(reject)
    rejects.write(json.dumps(vars(reject), ensure_ascii=True) + "\n")


def refuse_rejects(ledger: Ledger, allowed: int, flag: str = "--set data.max_rejected=") -> None:
    """Raise DataError when more rows were rejected than allowed with `flag`, or none is left."""
    if ledger.rejected <= allowed and ledger.trained:
        return
    more = ledger.rejected - SHOWN
    tail = [f"... and {more} more rows"] if more > 0 else []
    summary = (
        f"{ledger.rejected} of {ledger.read} rows cannot be trained on and data.max_rejected is {allowed}: "
        f"mend them, or allow so many with {flag}{ledger.rejected}"
        if ledger.trained
        else f"none of the {ledger.read} rows can be trained on"
    )
    raise DataError(summary, *(r.sentence() for r in ledger.rejects[:SHOWN]), *tail)
