"""Asks bases and runs the same questions, takes their loss of the same rows, and sets them side by side."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.artifact import family_of
from ftx.console import Console
from ftx.errors import RecipeError
from ftx.eval.heldout import HeldOut, Loss, Overlap, loss_of, overlap, prepared
from ftx.eval.match import Figures, Forgotten, Judged, figures, forgotten, judged
from ftx.eval.questions import Question, spread
from ftx.eval.subject import Subject, check_base, differing, head, settings_of
from ftx.reader import find_place, under
from ftx.recipe import EvalRecipe
from ftx.run import losses, samples
from ftx.talk import Sampling, Talk, open_talk

if TYPE_CHECKING:
    from ftx.plugins import Registry

PROBES, HELD_OUT, FORGET = "probes", "heldout", "forget"
OPTIONS = {PROBES: "--probes", HELD_OUT: "--data", FORGET: "--forget"}


@dataclass(frozen=True)
class Wanted:
    """What is asked. `sets` are questions by PROBES, HELD_OUT and FORGET; of held-out rows at most `most` are asked."""

    sets: Mapping[str, Sequence[Question]]
    heldout: HeldOut | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=128))
    max_rejected: int = 0
    before: bool = True


@dataclass
class Column:
    """One model and all that it said. `before` is the column of a run's base, None for a base or without one."""

    head: str
    subject: Subject
    is_base: bool
    before: Column | None = None
    answers: dict[str, list[Judged]] = field(default_factory=dict)
    loss: Loss | None = None

    @property
    def figures(self) -> dict[str, Figures]:
        return {name: figures(said) for name, said in self.answers.items()}

    @property
    def forgotten(self) -> Forgotten | None:
        if self.before is None or FORGET not in self.answers:
            return None
        return forgotten(self.before.answers[FORGET], self.answers[FORGET])

    def as_dict(self) -> dict[str, Any]:
        lost = self.forgotten
        return {
            "name": self.head,
            "kind": "base" if self.is_base else self.subject.artifact.kind,
            "path": str(self.subject.base if self.is_base else self.subject.artifact.folder),
            "before": self.before.head if self.before else None,
            "template": self.subject.artifact.plan["template"]["name"],
            "heldout_loss": asdict(self.loss) if self.loss else None,
            "figures": {name: asdict(one) for name, one in self.figures.items()},
            "forgotten": asdict(lost) if lost else None,
            "answers": {name: [asdict(one) for one in said] for name, said in self.answers.items()},
        }


@dataclass(frozen=True)
class Evaluation:
    """What was seen. `overlaps` go by the runs' names; `warnings` are sentences to read figures with."""

    subjects: Sequence[Subject]
    columns: Sequence[Column]
    wanted: Wanted
    overlaps: Mapping[str, Overlap]
    different: Sequence[str]
    warnings: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """eval.json's content."""
        return {
            "event": "evaluated",
            "match": "exact: the same characters after NFKC, white space at the ends aside; near: difflib's ratio",
            "max_new_tokens": self.wanted.sampling.max_new_tokens,
            "differing": list(self.different),
            "warnings": list(self.warnings),
            "runs": [
                {
                    "name": one.name,
                    "path": str(one.artifact.folder),
                    "settings": settings_of(one.artifact),
                    "losses": losses(one.run) if one.run else {},
                    "samples": samples(one.run) if one.run else [],
                    "overlap": asdict(self.overlaps[one.name]) if one.name in self.overlaps else None,
                }
                for one in self.subjects
            ],
            "questions": {name: [q.as_dict() for q in asked] for name, asked in self.wanted.sets.items()},
            "columns": [one.as_dict() for one in self.columns],
        }


def evaluate(subjects: Sequence[Subject], wanted: Wanted, registry: Registry, console: Console) -> Evaluation:
    """Ask every base once and every run, one model in memory at a time. Raises FtxError."""
    different = differing([settings_of(one.artifact) for one in subjects])
    overlaps = {one.name: overlap(one.artifact, wanted.heldout, registry) for one in subjects} if wanted.heldout else {}
    warnings = [*_told(subjects), *_overlapping(overlaps)]
    for sentence in warnings:
        console.warn(sentence)
    asks = bool(wanted.sets or wanted.heldout)
    for one in subjects if asks else ():
        if wanted.before or one.artifact.kind == "adapter":
            check_base(one, registry)
        _refuse_unanswerable(one, wanted, registry)
    bases: dict[tuple[str, str, str], Column] = {}
    runs: list[Column] = []
    for subject in subjects if asks else ():
        column = Column(head(subject, different), subject, is_base=False)
        column.before = bases.get(subject.key)
        new = Column(_base_head(subject, len(bases)), subject, is_base=True)
        if wanted.before and column.before is None:
            column.before = bases[subject.key] = new
        _see(column, new if column.before is new else None, wanted, registry, console)
        runs.append(column)
    return Evaluation(subjects, [*bases.values(), *runs], wanted, overlaps, different, warnings)


def _base_head(subject: Subject, count: int) -> str:
    return "base" if not count else f"base of {subject.name}"


def _see(run: Column, base: Column | None, wanted: Wanted, registry: Registry, console: Console) -> None:
    """Fill the run's column, and its base's where that is new: the base is asked as the run is."""
    subject = run.subject
    artifact = subject.artifact
    adapter = artifact.kind == "adapter"
    talk = open_talk(artifact.folder, registry, base=subject.base if adapter else None)
    template, stop_ids = talk.template, talk.stop_ids
    _fill(run, talk, wanted, registry, console)
    del talk
    gc.collect()
    if base is None:
        return
    talk = open_talk(subject.base, registry, options=family_of(artifact))
    talk.template, talk.stop_ids = template, stop_ids
    _fill(base, talk, wanted, registry, console)


def _refuse_unanswerable(subject: Subject, wanted: Wanted, registry: Registry) -> None:
    """Raise RecipeError for a question that the run cannot be asked, before any model is asked one."""
    base = subject.base if subject.artifact.kind == "adapter" else None
    reader = find_place(subject.artifact.folder, registry, base).reader("auto")
    for name, questions in wanted.sets.items():
        option = OPTIONS[name]
        count = sum(bool(question.images) for question in questions)
        if count and reader.images is None:
            raise RecipeError(
                f"{option}: {count} of the questions have pictures, and {subject.name} reads text alone; "
                "take them out, or evaluate a model that sees"
            )
        for question in questions:
            try:
                reader.inputs(under(question.system, [reader.question(question.text, question.images)]))
            except RecipeError as error:
                raise RecipeError(f"{option}: {subject.name} cannot be asked {question.text[:40]!r}: {error}") from None


def _fill(column: Column, talk: Talk, wanted: Wanted, registry: Registry, console: Console) -> None:
    count = sum(map(len, wanted.sets.values()))
    console.say(f"{column.head}: {count} questions")
    for name, questions in wanted.sets.items():
        column.answers[name] = [_ask(talk, question, wanted.sampling) for question in questions]
    if wanted.heldout is not None:
        subject = column.subject
        # Made the same way for both columns; the cache keeps it from being made twice.
        base = subject.base if subject.base.is_dir() else subject.artifact.folder
        found, how = prepared(subject.artifact, base, wanted.heldout.rows, wanted.max_rejected, registry)
        column.loss = loss_of(talk.model, found.stores[0], talk.tokenizer.pad_id, how.images)


def _ask(talk: Talk, question: Question, sampling: Sampling) -> Judged:
    talk.reset()
    talk.system = question.system
    return judged(talk.ask(question.text, sampling, images=question.images), question.reference)


def _told(subjects: Sequence[Subject]) -> list[str]:
    """What makes columns differ besides what was learnt."""
    found = []
    for what, dotted in (("templates", ("template", "name")), ("lengths", ("data", "max_length"))):
        seen = {one.name: one.artifact.plan[dotted[0]][dotted[1]] for one in subjects}
        if len(set(seen.values())) > 1:
            told = ", ".join(f"{name}: {value}" for name, value in seen.items())
            found.append(
                f"the runs were trained with different {what} ({told}); each is asked and measured with its own, so "
                "their losses are not of the same tokens"
            )
    return found


def _overlapping(overlaps: Mapping[str, Overlap]) -> list[str]:
    found = []
    for name, one in overlaps.items():
        if one.same_file:
            found.append(
                f"--data is the very file that {name} was trained on: all {one.rows} rows; what follows says how well "
                "they were learnt by heart, not how others are answered"
            )
        elif one.shared:
            found.append(f"{one.shared} of the {one.rows} held-out rows were trained on by {name}; take them out")
        if one.unread:
            found.append(f"whether {name} was trained on held-out rows is not known: {one.unread}")
    return found


def asked_sets(
    probes: Sequence[Question] | None, heldout: HeldOut | None, forget: Sequence[Question] | None, most: int
) -> dict[str, Sequence[Question]]:
    """The questions by name, none empty."""
    held = spread(heldout.questions, most) if heldout else None
    return {name: one for name, one in ((PROBES, probes), (HELD_OUT, held), (FORGET, forget)) if one}


def recipe_questions(subjects: Sequence[Subject]) -> list[Question]:
    """What the runs' recipes ask while training, each question once; one whose picture is gone is left out."""
    found: dict[Question, None] = {}
    for subject in subjects:
        if "eval" not in subject.artifact.plan:
            continue
        asked = EvalRecipe(**subject.artifact.plan["eval"])
        for number, text in enumerate(asked.questions):
            image = asked.image_of(number)
            if image is None or Path(image).is_file():
                found[Question(text, None, (Path(image),) if image else (), asked.system)] = None
    return list(found)


def result_folder(out: Path | None) -> Path:
    """Where results go: `out`, which must be new, or the next free runs/eval. Raises RecipeError."""
    if out is None:
        parent, number = Path("runs"), 1
        while (chosen := parent / ("eval" if number == 1 else f"eval-{number}")).exists():
            number += 1
        return chosen
    if out.exists():
        raise RecipeError(f"--out: {out} exists already; give another folder")
    return out
