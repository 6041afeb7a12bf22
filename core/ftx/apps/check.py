"""Starts an app, asks it, and compares its answers with those of ftx."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.apps.near_tie import as_good
from ftx.apps.probes import PROBES, prompt_ids
from ftx.apps.serve import app_manifest, asked, running
from ftx.checkpoint_files import read_json
from ftx.errors import RecipeError, VerificationError
from ftx.export.verify import first_difference

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
        at = first_difference(said["prompt_ids"], ids)
        problem = f"the prompt's token ids differ from ftx's, first at place {at}"
    elif said["answer"] != expected and not as_good(folder, probe, said, expected, most, registry):
        problem = f"the app answers {said['answer']!r}, ftx {expected!r}"
    way = "page" if (folder / "page.py").is_file() else "http"  # Streamlit's has no interface for programs
    return Compared(probe["question"], way, expected, said["answer"], problem)


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
