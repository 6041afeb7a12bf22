"""Held-out rows: read, rendered, tokenised and labelled as the run's own were, and their loss."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.artifact import Artifact, family_of
from ftx.atomic import sha256_of
from ftx.data.conversation import RowError
from ftx.data.load import Prepared, prepare, refuse_rejects
from ftx.data.samples import Preparation
from ftx.data.sets import DataSet, open_set
from ftx.errors import DataError, FtxError
from ftx.eval.questions import Question, asked_in

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ftx.contracts import ImageProcessor
    from ftx.data.store import Sample
    from ftx.plugins import Registry

ROWS_AT_ONCE = 4
Key = tuple[tuple[tuple[str, str], ...], tuple[str, ...]]


@dataclass(frozen=True)
class Loss:
    """Cross entropy a labelled token, its exponential, and how many tokens and samples it is of."""

    loss: float
    perplexity: float
    tokens: int
    samples: int


@dataclass(frozen=True)
class HeldOut:
    """A set of held-out rows, and what of them is asked."""

    path: Path
    rows: DataSet
    questions: list[Question]


def open_heldout(
    path: Path, trained: Sequence[Mapping[str, Any]], given: Mapping[str, Any], registry: Registry
) -> HeldOut:
    """The rows of `path`, in the format, with the columns and the system message of the `trained` sets where all of
    those share one and none is `given` ("format", "columns", "system"). Raises DataError, RecipeError.
    """
    from ftx.plan import configured
    from ftx.recipe import source_of

    if not path.exists():
        raise DataError(f"--data: there is no file {path}")
    shared = {
        key: trained[0][key]
        for key in ("format", "columns", "system")
        if all(one[key] == trained[0][key] for one in trained)
    }
    how = {"format": "auto", "columns": None, "system": None, **shared}
    how.update({key: value for key, value in given.items() if value is not None})
    source = configured(registry.source("files"), {**source_of(str(path)), "name": "files"}, "--data")
    rows = open_set(source, how["format"], how["system"], registry, how["columns"])
    questions: list[Question] = []
    for record in source.records():
        try:
            questions += asked_in(rows, [record])
        except RowError:
            continue  # what cannot be read is counted, and refused, where samples are made
    return HeldOut(path, rows, questions)


def prepared(
    artifact: Artifact, base: Path, rows: DataSet, allowed: int, registry: Registry
) -> tuple[Prepared, Preparation]:
    """The rows as samples of the artefact's run: its template, length and way with longer rows.

    Raises DataError when more than `allowed` rows cannot be used, or none is left.
    """
    from ftx.plan import family_template, find_family

    plan = artifact.plan
    family = find_family(family_of(artifact), base, registry)
    tokenizer = family.tokenizer(base)
    data = plan["data"]
    how = Preparation(
        family_template(plan["template"]["name"], tokenizer, family, base),
        tokenizer,
        data["max_length"],
        data["overlong"],
        data["typed_specials"],
        family.image_processor(base),
    )
    found = prepare([rows], how, registry.versions())
    refuse_rejects(found.ledger, allowed, "--max-rejected ")
    return found, how


def loss_of(
    model: PreTrainedModel, samples: Sequence[Sample], pad_id: int, images: ImageProcessor | None = None
) -> Loss:
    """The loss of samples as the trainer counts it: over all labelled tokens alike, however long their rows are."""
    import torch

    from ftx.data.collate import collate, on_device
    from ftx.rope import turn_samples_apart
    from ftx.train.loss import asked, loss_sum

    turn_samples_apart(model, max(map(len, samples)))
    total, tokens = 0.0, 0
    order = sorted(range(len(samples)), key=lambda i: len(samples[i]))
    with torch.inference_mode():
        for start in range(0, len(order), ROWS_AT_ONCE):
            rows = [[samples[i]] for i in order[start : start + ROWS_AT_ONCE]]
            batch = collate(rows, pad_id, images=images)
            batch.update(asked(batch.pop("labels")))
            tokens += len(batch["targets"])
            total += float(loss_sum(model, on_device(batch, model.device)))
    mean = total / tokens
    return Loss(mean, math.exp(min(mean, 700.0)), tokens, len(samples))


@dataclass(frozen=True)
class Overlap:
    """Held-out rows that were trained on, of `rows`; `same_file` when the file itself was. `unread` says in a sentence
    why the training rows could not be compared, None when they were."""

    rows: int
    shared: int
    same_file: bool
    unread: str | None = None


def overlap(artifact: Artifact, heldout: HeldOut, registry: Registry) -> Overlap:
    """How many held-out rows are rows of the artefact's training."""
    source = heldout.rows.source
    held = list(_keys(heldout.rows))
    if source.fingerprint() in artifact.manifest["data"]:
        return Overlap(len(held), len(held), same_file=True)
    said, seen = {key[0] for key in held}, set[Key]()
    unread: list[str] = []
    for one, digest in zip(artifact.plan["data"]["sets"], artifact.manifest["data"], strict=True):
        try:
            seen.update(_keys(_trained(one, digest, registry), said))
        except FtxError as error:
            unread += error.problems
    return Overlap(len(held), sum(key in seen for key in held), same_file=False, unread="; ".join(unread) or None)


def _trained(one: Mapping[str, Any], digest: str, registry: Registry) -> DataSet:
    """A training set as the plan names it. Raises DataError where it is not on this machine as it was."""
    from ftx.plan import configured

    named = one["source"]
    if named["name"] != "files":
        raise DataError(f"rows of {named['name']} are not fetched again to compare them")
    if not Path(named["path"]).exists():
        raise DataError(f"the training file {named['path']} is not here to compare with")
    source = configured(registry.source("files"), named, "data.source")
    if source.fingerprint() != digest:
        raise DataError(f"the training file {named['path']} has changed since")
    return open_set(source, one["format"], one["system"], registry, one["columns"])


def _keys(rows: DataSet, among: Collection[Any] | None = None) -> Iterator[Key]:
    """What tells each conversation from others, whatever its format and system message: what is said, and shown.

    With `among`, only those that say the same as one of them; pictures are not read for the others.
    """
    for record in rows.source.records():
        try:
            conversations = rows.conversations(record)
        except RowError:
            continue
        folder = rows.images_in(record)
        for conversation in conversations:
            said = tuple((m.role, m.content.strip()) for m in conversation.messages if m.role != "system")
            if among is None or said in among:
                yield said, tuple(_content(folder / name) for name in conversation.images)


def _content(picture: Path) -> str:
    return sha256_of(picture) if picture.is_file() else picture.name
