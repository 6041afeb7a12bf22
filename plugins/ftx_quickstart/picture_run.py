"""The second quickstart's work: pictures, a plan, training, merging, and the questions before and after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftx.artifact import Artifact
from ftx.atomic import write_text
from ftx.console import Console
from ftx.errors import RecipeError, VerificationError
from ftx.plan import Plan, make_plan
from ftx.plugins import Registry
from ftx.recipe import written
from ftx.run import losses
from ftx.talk import Answer, Sampling, Talk, open_talk
from ftx_quickstart.captions import Probe, caption_probes, is_caption, is_true, skill_probes, write_tuning
from ftx_quickstart.corpus import is_right
from ftx_quickstart.first_run import quoted, tuned
from ftx_quickstart.scenes import picture

BASE = Path(__file__).parent / "vision_base"
CAPTION_ROWS = 220
REPLAY_ROWS = 220
PLAIN_ROWS = 60
ENOUGH_CAPTIONS = 0.75  # share of the caption probes that must be answered in the new style
ENOUGH_TRUE = 0.4  # share of them whose numbers, colours and shapes must all be right
ENOUGH_KEPT = 0.8  # share of the skills known before that must be left

# method -> its options and rate
SETTINGS = {
    "lora": ("{name: lora, rank: 16, dropout: 0.0, projector: frozen}", 2e-3),
    "full": ("{name: full}", 2e-4),
}

RECIPE = """\
# What `ftx quickstart --plugin internvl` ran. Again by hand: ftx train {recipe} --out ANOTHER_FOLDER
family: internvl
model: {model}
method: {method}
data:
  sets: [{{path: {data}, format: llava}}]
  max_length: 256
train:
  epochs: 2.25
  lr: {lr}
  global_batch_size: 16
  micro_batch_size: 16
  memory: fast
out: {out}
"""


@dataclass(frozen=True)
class Answers:
    """One model's answers to the caption probes and to the skill probes, in their order."""

    captions: Sequence[Answer]
    skills: Sequence[Answer]

    @property
    def styled(self) -> float:
        """Share of the captions that have the new style."""
        return _share(styled(probe, a.text) for probe, a in zip(caption_probes(), self.captions, strict=True))

    @property
    def true(self) -> float:
        """Share of the captions that have the new style and are true to the picture."""
        return _share(caption_right(probe, a.text) for probe, a in zip(caption_probes(), self.captions, strict=True))

    @property
    def right(self) -> float:
        """Share of the skill probes answered right."""
        return _share(is_right(probe.pair, a.text) for probe, a in zip(skill_probes(), self.skills, strict=True))

    @property
    def stopped(self) -> float:
        """Share of all answers that the model ended itself."""
        return _share(answer.stopped for answer in (*self.captions, *self.skills))


@dataclass(frozen=True)
class PictureRun:
    """What the second quickstart did and saw; `losses` are in order of the steps."""

    folder: Path
    before: Answers
    after: Answers
    losses: Sequence[float]
    merged: Artifact

    def prove(self) -> None:
        """Raise VerificationError unless the run did what it promises."""
        after, problems = self.after, []
        if after.styled < ENOUGH_CAPTIONS:
            problems.append(f"only {after.styled:.0%} of the captions are in the new style")
        if after.true < ENOUGH_TRUE:
            problems.append(f"only {after.true:.0%} of the captions are true to their picture")
        if after.right < ENOUGH_KEPT * self.before.right:
            problems.append(
                f"only {after.right:.0%} of the other questions are answered right, {self.before.right:.0%} before"
            )
        if after.stopped < 1:
            problems.append(f"only {after.stopped:.0%} of the answers end by the stop token")
        if problems:
            raise VerificationError(*problems)


def _share(held: Iterable[bool]) -> float:
    seen = list(held)
    return sum(seen) / len(seen)


def styled(probe: Probe, text: str) -> bool:
    """Whether a caption probe was answered in the new style."""
    return probe.scene is not None and is_caption(text)


def caption_right(probe: Probe, text: str) -> bool:
    """Whether a caption probe was answered in the new style and with the right facts."""
    return probe.scene is not None and styled(probe, text) and is_true(probe.scene, text)


def require_base() -> None:
    """Raise RecipeError where this installation carries no vision model."""
    if not (BASE / "config.json").is_file():
        raise RecipeError(
            "--plugin: this installation has no tiny vision model for internvl; take --plugin internlm2, or build one "
            "with python -m ftx_quickstart.build_vision_base --out DIR and copy DIR/base to ftx_quickstart/vision_base"
        )


def picture_run(registry: Registry, folder: Path, method: str, console: Console) -> PictureRun:
    """Do all of it in `folder`, which must be new. Raises FtxError."""
    require_base()
    if folder.exists():
        raise RecipeError(f"--out: {folder} exists already; give another folder")
    shown = folder / "probes"
    write_probes(shown)
    console.say("1/4  asking the untuned model about pictures that no training shows")
    before = ask_all(open_talk(BASE, registry), shown)
    console.say("2/4  tuning it to let the things in a picture say hello")
    plan = _plan(folder, method, registry)
    artifact = tuned(plan, console)
    console.say("4/4  asking the tuned model")
    after = ask_all(open_talk(artifact.folder, registry), shown)
    return PictureRun(folder, before, after, list(losses(plan.out).values()), artifact)


def write_probes(folder: Path) -> None:
    """Draw the pictures of all probes into `folder`."""
    folder.mkdir(parents=True)
    for probe in (*caption_probes(), *skill_probes()):
        if probe.scene is not None and probe.file is not None:
            picture(probe.scene).save(folder / probe.file)


def recipe_text(folder: Path, method: str, data: Path) -> str:
    """The recipe of a run in `folder` on the rows `data`."""
    settings, lr = SETTINGS.get(method, (f"{{name: {method}}}", 1e-3))
    return RECIPE.format(
        recipe=folder / "recipe.yaml",
        model=quoted(BASE),
        method=settings,
        lr=lr,
        data=quoted(data),
        out=quoted(folder / "run"),
    )


def _plan(folder: Path, method: str, registry: Registry) -> Plan:
    data = write_tuning(folder / "data", CAPTION_ROWS, REPLAY_ROWS, PLAIN_ROWS, seed=0)
    recipe = folder / "recipe.yaml"
    write_text(recipe, recipe_text(folder, method, data))
    return make_plan(written(recipe, {}), registry)


def ask_all(talk: Talk, pictures: Path) -> Answers:
    """Ask every probe, each in a conversation of its own; its picture is in the folder `pictures`."""
    sampling = Sampling(max_new_tokens=96)

    def alone(probe: Probe) -> Answer:
        talk.reset()
        images = [pictures / probe.file] if probe.file is not None else []
        return talk.ask(probe.pair.question, sampling, images=images)

    return Answers([alone(p) for p in caption_probes()], [alone(p) for p in skill_probes()])
