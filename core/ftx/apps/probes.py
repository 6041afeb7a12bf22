"""Questions that an app must answer as ftx does: asked when the app is made, kept in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ftx.artifact import Artifact
from ftx.atomic import write_json
from ftx.errors import RecipeError
from ftx.export.receipt import Probed, read_receipt

if TYPE_CHECKING:
    from ftx.talk import Talk

PROBES = "probes.json"
PICTURE = "probe.png"
QUESTIONS = ("你好", "Who are you?", "What colour is snow?")
ABOUT_PICTURE = "What is in the picture?"
MAX_NEW_TOKENS = 64
FEW = 4


def write_probes(talk: Talk, artifact: Artifact | None, out: Path, *, system: str, pictures: bool) -> None:
    """Write probes.json, {"max_new_tokens", "probes"}, into `out`.

    The answers are those of the artefact's receipt, where it was asked with this system message; else ftx is asked now.
    """
    receipt = read_receipt(artifact) if artifact else None
    asked = receipt.probes if receipt else []
    known = [one for one in asked if not (one.image or one.before) and (one.system or "") == system]
    if receipt and known and not pictures:
        most, probes = receipt.max_new_tokens, known[:FEW]
    else:
        most, probes = MAX_NEW_TOKENS, [_asked(talk, question, system) for question in QUESTIONS]
    if pictures:
        _draw(out / PICTURE)
        probes.append(_asked(talk, ABOUT_PICTURE, system, [out / PICTURE]))
    write_json(out / PROBES, {"max_new_tokens": most, "probes": [asdict(probe) for probe in probes]})


def _asked(talk: Talk, question: str, system: str, images: Sequence[Path] = ()) -> Probed:
    from ftx.talk import Sampling

    talk.reset()
    talk.system = system or None
    ids = [] if images else prompt_ids(talk, question, system)
    answer = talk.ask(question, Sampling(MAX_NEW_TOKENS), images=images)
    talk.reset()
    return Probed(question, system or None, images[0].name if images else None, ids, answer.text, answer.stopped)


def prompt_ids(talk: Talk, question: str, system: str) -> list[int]:
    """The ids that ftx asks `question` with. Raises RecipeError for a template that cannot express it."""
    from ftx.data.conversation import Message, RowError

    head = [Message("system", system)] if system else []
    try:
        return talk.template.prompt([*head, Message("user", question)], talk.tokenizer)
    except RowError as error:
        raise RecipeError(f"{error.reason}; {error.remedy}") from None


def _draw(path: Path) -> None:
    """A red circle and a blue square on white."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (224, 112), "white")
    pen = ImageDraw.Draw(picture)
    pen.ellipse((20, 20, 90, 90), fill=(220, 30, 30))
    pen.rectangle((135, 25, 200, 90), fill=(30, 60, 220))
    picture.save(path)
