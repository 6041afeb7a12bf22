"""Starts an app, asks it, and compares its answers with those of ftx."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.apps.probes import PROBES, prompt_ids
from ftx.apps.serve import app_manifest, asked, running
from ftx.checkpoint_files import read_json
from ftx.errors import RecipeError, VerificationError

if TYPE_CHECKING:
    from ftx.plugins import Registry
    from ftx.talk import Talk


@dataclass(frozen=True)
class Compared:
    """One question: what ftx answers and what the app did: over "http", its "page" run alone, or in the "browser"."""

    question: str
    way: str
    expected: str
    answer: str
    problem: str | None


def check_app(folder: Path, python: Path, *, browser: bool, picture: Path | None, registry: Registry) -> list[Compared]:
    """Every probe's comparison. `picture` gets a screenshot of the browser.

    Raises RecipeError for what is no app, ModelError for one that does not start.
    """
    app_manifest(folder)
    kept = read_json(folder / PROBES)
    settings = {"APP_TEMPERATURE": "0", "APP_MAX_NEW_TOKENS": str(kept["max_new_tokens"])}
    with running(folder, python, settings) as url:
        pairs = list(zip(kept["probes"], asked(folder, python, url, settings), strict=True))
        shown = next((said for probe, said in pairs if not probe["image"]), None)
        pages = []
        if browser and shown is not None:
            from ftx.apps.browser import seen

            pages.append(seen(url, shown["question"], shown["answer"], picture))
    # The app has ended: where memory is for one model, it is ftx's now.
    return [*(_compared(probe, said, folder, kept["max_new_tokens"], registry) for probe, said in pairs), *pages]


def refuse_differences(compared: list[Compared]) -> None:
    """Raise VerificationError with one sentence for each answer that is not ftx's."""
    if problems := [f"{one.way}: {one.question!r}: {one.problem}" for one in compared if one.problem]:
        raise VerificationError(*problems)


def _compared(probe: dict[str, Any], said: dict[str, Any], folder: Path, most: int, registry: Registry) -> Compared:
    ids, expected = probe["prompt_ids"], str(probe["answer"])
    if said["prompt"] != probe["question"]:  # the app asked the model in other words, as with documents
        talk, system = _talk(folder, registry), probe["system"] or ""
        ids, expected = prompt_ids(talk, said["prompt"], system), _answer(talk, said["prompt"], system, most)
    problem = None
    if said["prompt_ids"] is not None and said["prompt_ids"] != ids:
        at = next(
            (i for i, (a, b) in enumerate(zip(said["prompt_ids"], ids, strict=False)) if a != b),
            min(len(ids), len(said["prompt_ids"])),
        )
        problem = f"the prompt's token ids differ from ftx's, first at place {at}"
    elif said["answer"] != expected and not _as_good(folder, probe, said, expected, most, registry):
        problem = f"the app answers {said['answer']!r}, ftx {expected!r}"
    way = "page" if (folder / "page.py").is_file() else "http"  # Streamlit's has no interface for programs
    return Compared(probe["question"], way, expected, said["answer"], problem)


def _as_good(
    folder: Path, probe: dict[str, Any], said: dict[str, Any], expected: str, most: int, registry: Registry
) -> bool:
    """Whether the answers differ in a choice between words that to the model were as good, as `ftx verify` has it.

    An app on a GPU computes in 16 bit, and what is expected may have been in 32.
    """
    from ftx.export.forms import Form, Said, load
    from ftx.export.probes import Probe
    from ftx.export.verify import Trained, compare, tolerance_of
    from ftx.plan import find_family, generation_eos

    model = folder / "model"
    if not model.is_dir():
        return False
    image = str(folder / probe["image"]) if probe["image"] else None
    asked = [Probe((said["prompt"],), probe["system"], image)]
    family = find_family({"name": "auto"}, model, registry)
    form = load("ftx", family, model, folder)
    trained = Trained.of(form, generation_eos(model), asked, most, tolerance_of(family, model))

    class Told(Form):
        def __init__(self, text: str) -> None:
            self.name, self.text = "app", text

        def say(self, probe: Probe, max_new_tokens: int) -> Said:
            return Said(self.text, trained.said[0].stopped)  # an app does not tell how it ended

    return all(compare(trained, Told(text)).passed for text in (expected, said["answer"]))


def _talk(folder: Path, registry: Registry) -> Talk:
    from ftx.talk import open_talk

    if not (folder / "model").is_dir():
        raise RecipeError(f"{folder} fetches its model, so that ftx cannot answer for it; check one with its own model")
    return open_talk(folder / "model", registry)


def _answer(talk: Talk, prompt: str, system: str, most: int) -> str:
    from ftx.talk import Sampling

    talk.reset()
    talk.system = system or None
    return talk.ask(prompt, Sampling(most)).text
