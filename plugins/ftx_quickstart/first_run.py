"""The quickstart's work: data for a name, a plan, training, merging, and the questions before and after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ftx.artifact import Artifact
from ftx.atomic import write_text
from ftx.console import Console
from ftx.errors import RecipeError, VerificationError
from ftx.export.merge import merge
from ftx.export.proof import verify
from ftx.export.quantised import quantization_of
from ftx.plan import Plan, make_plan
from ftx.plugins import Registry
from ftx.recipe import written
from ftx.run import losses
from ftx.talk import Answer, Sampling, Talk, open_talk
from ftx.train.fit import fit
from ftx_quickstart.corpus import is_right, probes, write_rows
from ftx_quickstart.identity import identity_questions, identity_rows, replay_rows

BASE = Path(__file__).parent / "base"
IDENTITY_ROWS = 160
REPLAY_ROWS = 160
ENOUGH_RIGHT = 0.8  # share of unrelated probes that must stay right

# method -> its options and rate, found by trying names in several scripts: the name learnt, the probes kept
SETTINGS = {
    "lora": ("{name: lora, rank: 8}", 2e-3),
    "qlora": ("{name: qlora, rank: 8}", 2e-3),
    "full": ("{name: full}", 2e-4),
}

RECIPE = """\
# What `ftx quickstart` ran. Again by hand: ftx train {recipe} --out ANOTHER_FOLDER
family: internlm2
model: {model}
method: {method}
data:
  sets: [{data}]
  max_length: 256
train:
  epochs: 6
  lr: {lr}
  global_batch_size: 16
  micro_batch_size: 16
out: {out}
"""


@dataclass(frozen=True)
class Asked:
    """One model's answers to the identity questions and to the unrelated probes, in their order."""

    identity: Sequence[Answer]
    probes: Sequence[Answer]

    @property
    def right(self) -> float:
        """Share of the probes answered right."""
        return sum(is_right(p, a.text) for p, a in zip(probes(), self.probes, strict=True)) / len(self.probes)

    @property
    def stopped(self) -> float:
        """Share of all answers that the model ended itself."""
        answers = [*self.identity, *self.probes]
        return sum(a.stopped for a in answers) / len(answers)


@dataclass(frozen=True)
class FirstRun:
    """What the quickstart did and saw; `losses` are in order of the steps."""

    name: str
    folder: Path
    before: Asked
    after: Asked
    losses: Sequence[float]
    merged: Artifact

    @property
    def named(self) -> int:
        """Identity questions answered with the new name."""
        return sum(self.name in answer.text for answer in self.after.identity)

    def prove(self) -> None:
        """Raise VerificationError unless the run did what it promises."""
        problems = []
        if self.named < len(self.after.identity):
            problems.append(f"the tuned model says '{self.name}' in {self.named} of {len(self.after.identity)} answers")
        if self.after.right < ENOUGH_RIGHT:
            problems.append(f"only {self.after.right:.0%} of the unrelated probes are still answered right")
        if self.after.stopped < 1:
            problems.append(f"only {self.after.stopped:.0%} of the answers end by the stop token")
        if problems:
            raise VerificationError(*problems)


def free_folder(parent: Path) -> Path:
    """parent/quickstart, or the first of quickstart-2, quickstart-3, ... that is not there yet."""
    names = ("quickstart" if i == 1 else f"quickstart-{i}" for i in count(1))
    return next(parent / name for name in names if not (parent / name).exists())


def first_run(registry: Registry, name: str, folder: Path, method: str, console: Console) -> FirstRun:
    """Do all of it in `folder`, which must be new. Raises FtxError."""
    if folder.exists():
        raise RecipeError(f"--out: {folder} exists already; give another folder")
    console.say("1/4  asking the untuned model")
    before = ask_all(open_talk(BASE, registry))
    console.say(f"2/4  tuning it to be the assistant of {name}")
    data = folder / "data.jsonl"
    folder.mkdir(parents=True)
    write_rows([*identity_rows(name, IDENTITY_ROWS), *replay_rows(REPLAY_ROWS, seed=0)], data)
    recipe = folder / "recipe.yaml"
    run = folder / "run"
    settings, lr = SETTINGS.get(method, (f"{{name: {method}}}", 1e-3))
    write_text(
        recipe,
        RECIPE.format(recipe=recipe, model=quoted(BASE), method=settings, lr=lr, data=quoted(data), out=quoted(run)),
    )
    artifact = tuned(make_plan(written(recipe, {}), registry), console)
    console.say("4/4  asking the tuned model")
    after = ask_all(open_talk(artifact.folder, registry))
    return FirstRun(name, folder, before, after, list(losses(run).values()), artifact)


def tuned(plan: Plan, console: Console) -> Artifact:
    """The whole model that the plan's training makes."""
    artifact = fit(plan, console)
    console.say("3/4  merging the adapter into the base")
    if artifact.kind == "adapter":
        quantization = quantization_of(plan.method, plan.family)
        artifact = merge(artifact, plan.family, plan.base, plan.out / "merged", console, quantization)
    return proven(artifact, plan.registry, console)


def proven(artifact: Artifact, registry: Registry, console: Console) -> Artifact:
    """The artefact, once all its forms answer alike. Raises VerificationError."""
    findings = verify(artifact.folder, registry)
    for finding in findings:
        console.event({"event": "verified", **finding.as_dict()})
    if problems := [problem for finding in findings for problem in finding.problems]:
        raise VerificationError(*problems)
    return artifact


def quoted(path: Path) -> str:
    """A path as a YAML string, whatever characters it has."""
    return json.dumps(str(path), ensure_ascii=False)


def ask_all(talk: Talk) -> Asked:
    """Ask every identity question and every probe, each in a conversation of its own."""
    sampling = Sampling(max_new_tokens=64)

    def alone(question: str) -> Answer:
        talk.reset()
        return talk.ask(question, sampling)

    return Asked([alone(q) for q in identity_questions()], [alone(p.question) for p in probes()])
