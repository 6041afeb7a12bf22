"""From data sources to token rows on disk, every row accounted for."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ftx.data.cache import cached
from ftx.data.images import is_as_seen
from ftx.data.ledger import REMEMBERED, Ledger, Reject
from ftx.data.samples import Preparation, samples_of
from ftx.data.sets import DataSet
from ftx.data.store import FILES, PICTURES, Store, Writer
from ftx.errors import DataError

SHOWN = 5  # rejected rows that a refusal spells out
REJECTS = "rejects.jsonl"
ACCOUNT = "ledger.json"


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
    names = [*(f"{name}.bin" for name in FILES), PICTURES, REJECTS, ACCOUNT]
    if not all((folder / name).is_file() for name in names):
        return False
    try:
        store = Store(folder)
        return len(store) == _ledger(folder).samples and all(map(is_as_seen, store.pictures()))
    except (ValueError, KeyError, TypeError):
        return False


def _ledger(folder: Path) -> Ledger:
    with (folder / REJECTS).open(encoding="utf-8") as lines:
        rejects = [Reject(**json.loads(line)) for line in islice(lines, REMEMBERED)]
    return Ledger.of(_account(folder)["ledger"], rejects)


def _account(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / ACCOUNT).read_text("utf-8"))
    return found


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


def _make(folder: Path, one: DataSet, how: Preparation) -> None:
    ledger = Ledger()
    with _few_collections(), Writer(folder) as writer, (folder / REJECTS).open("w", encoding="utf-8") as rejects:
        for sample in samples_of(one, how, ledger, lambda reject: rejects.write(as_line(reject))):
            writer.add(sample)
        account = {"ledger": ledger.as_dict(), "digest": writer.digest()}
    (folder / ACCOUNT).write_text(json.dumps(account), "utf-8")


def as_line(reject: Reject) -> str:
    """A line of rejects.jsonl."""
    return json.dumps(vars(reject), ensure_ascii=True) + "\n"


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
