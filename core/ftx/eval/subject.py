"""What is evaluated: finished runs, their bases, and the settings in which runs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.artifact import KINDS, Artifact, family_of
from ftx.errors import ModelError
from ftx.run import CHECKPOINTS, EVENTS, checkpoints_in

if TYPE_CHECKING:
    from ftx.plugins import Registry

# Of a plan, what says nothing of how a model was trained, or is told elsewhere.
LEFT_OUT = (
    "out",
    "writes",
    "origins",
    "notes",
    "expected_gpu_gib",
    "eval.",
    "method.produces",
    "model.parameters",
    "model.size_bytes",
)
# Differences that a head names first.
FIRST = ("method.name", "method.rank", "train.lr", "train.epochs", "train.max_steps", "template.name")
IN_HEAD = 3


@dataclass(frozen=True)
class Subject:
    """A finished run: its artefact, its base's folder, and the folder with its events, where that is known."""

    name: str
    artifact: Artifact
    base: Path
    run: Path | None

    @property
    def key(self) -> tuple[str, str, str]:
        """What its base must share with another run's to be asked the same way once: weights, template, place."""
        template = self.artifact.folder / "chat_template.jinja"
        told = template.read_text("utf-8") if template.is_file() else str(self.artifact.plan["template"]["name"])
        return self.artifact.manifest["base"]["fingerprint"], told, str(self.base)


def open_subjects(paths: Sequence[Path], base: Path | None) -> list[Subject]:
    """The finished runs in `paths`, each verified. Raises ModelError, VerificationError."""
    found: list[Subject] = []
    for path in paths:
        artifact = _found(path)
        run = artifact.folder.parent if artifact.folder.name in KINDS else artifact.folder
        name = _unused(run.resolve().name, [one.name for one in found])
        events = run if (run / EVENTS).is_file() else None
        found.append(Subject(name, artifact, base or artifact.base, events))
    return found


def _found(path: Path) -> Artifact:
    if not path.is_dir():
        raise ModelError(f"there is no run {path}; name the folder of a finished run, or of an artefact of ftx")
    artifact = Artifact.find(path)
    if artifact is None and (path / CHECKPOINTS).is_dir() and (path / "plan.json").is_file():
        resume = " with --resume auto" if checkpoints_in(path) else " anew"
        raise ModelError(f"the run in {path} was never finished; train it{resume}, then evaluate it")
    if artifact is None:
        raise ModelError(f"{path} holds no finished run and no artefact of ftx; train one with ftx train")
    return artifact


def _unused(name: str, taken: Sequence[str]) -> str:
    number = 1
    while (chosen := name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    return chosen


def check_base(subject: Subject, registry: Registry) -> None:
    """Raise ModelError unless the subject's base is there and is the one it was trained on."""
    from ftx.plan import find_family

    base, artifact = subject.base, subject.artifact
    if not base.is_dir():
        only = "" if artifact.kind == "adapter" else ", or leave the base out with --after-only"
        raise ModelError(f"{subject.name}: the base model {base} is not there; give --base FOLDER{only}")
    family = find_family(family_of(artifact), base, registry)
    if family.fingerprint(base) != artifact.manifest["base"]["fingerprint"]:
        raise ModelError(f"--base: {base} is not the base that {subject.name} was trained on (its weights differ)")


def settings_of(artifact: Artifact) -> dict[str, str]:
    """How a run was trained: dotted names and values."""
    return {name: value for name, value in _flat(artifact.plan) if not name.startswith(LEFT_OUT)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif name == "data.sets":
            yield name, ", ".join(str(one["source"].get("path", one["source"]["name"])) for one in value)
        elif value is not None:
            yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def differing(all_settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of the settings that are not the same in all, those that say most first."""
    names = dict.fromkeys(name for one in all_settings for name in one)
    found = [name for name in names if len({one.get(name) for one in all_settings}) > 1]
    return sorted(found, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def head(subject: Subject, different: Sequence[str]) -> str:
    """The head of a run's column: its name, and in what it differs from the others."""
    told = settings_of(subject.artifact)
    parts = [f"{name.removesuffix('.name').rpartition('.')[2]} {told.get(name, '-')}" for name in different[:IN_HEAD]]
    return f"{subject.name}: {', '.join(parts)}" if parts else subject.name
