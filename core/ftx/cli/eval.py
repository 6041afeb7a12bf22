"""`ftx eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftx.cli.options import columns_option
from ftx.console import Console
from ftx.plugins import Registry

if TYPE_CHECKING:
    from ftx.eval.evaluate import Wanted
    from ftx.eval.subject import Subject

HARNESSES = ("lm-eval", "opencompass", "vlmevalkit")
FILE = click.Path(path_type=Path)


@click.command("eval", epilog="Example: ftx eval runs/a runs/b --data heldout.jsonl --probes questions.txt")
@click.argument("paths", nargs=-1, required=True, type=FILE, metavar="RUN_OR_ARTEFACT...")
@click.option("--data", type=FILE, help="Held-out rows: loss, perplexity, and the answers to their first questions.")
@click.option("--probes", type=FILE, help="Questions: a .txt with one a line, or rows of question, answer, image.")
@click.option("--forget", type=FILE, help="Other questions, that training should have left alone.")
@click.option("--out", type=FILE, help="Folder of the results, a new one; default: runs/eval or the next one free.")
@click.option("--base", type=FILE, help="The base model, when it has moved.")
@click.option("--after-only", is_flag=True, help="Leave the base out.")
@click.option("--ask", default=100, show_default=True, type=click.IntRange(1), help="Held-out rows asked at most.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--max-rejected", type=click.IntRange(0), default=0, help="Held-out rows that may be unusable.")
@click.option("--format", "row_format", metavar="NAME", help="Row format of --data; default: that of the training.")
@click.option("--columns", metavar="input=q,output=a", help="Columns of --data; default: those of the training.")
@click.option("--system", metavar="TEXT", help="System message for rows of --data without one.")
@click.option("--write", type=click.Choice(HARNESSES), help="Write a config for that harness instead.")
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def evaluate(
    registry: Registry,
    /,
    paths: tuple[Path, ...],
    out: Path | None,
    base: Path | None,
    write: str | None,
    json_lines: bool,
    **given: Any,
) -> None:
    """Compare runs with their base and with each other: answers, matches, held-out loss, what was forgotten.

    Results go to --out: page.html, which holds all it shows, and eval.json.
    """
    from ftx.eval.evaluate import evaluate as see
    from ftx.eval.evaluate import result_folder
    from ftx.eval.results import tell_results, write_results
    from ftx.eval.subject import open_subjects

    console = Console(json_lines=json_lines)
    folder = result_folder(out)
    subjects = open_subjects(paths, base)
    if write:
        _hand_over(write, subjects, folder, registry, console)
        return
    seen = see(subjects, _wanted(subjects, given, registry), registry, console)
    write_results(seen, folder)
    tell_results(seen, folder, console)


def _wanted(subjects: list[Subject], given: dict[str, Any], registry: Registry) -> Wanted:
    """What the options ask for."""
    from ftx.errors import RecipeError
    from ftx.eval.evaluate import Wanted, asked_sets, recipe_questions
    from ftx.eval.heldout import open_heldout
    from ftx.eval.questions import read_questions
    from ftx.talk import Sampling

    data = given["data"]
    how = {
        "format": given["row_format"],
        "columns": columns_option(given["columns"]),
        "system": given["system"],
    }
    if data is None and (unused := [f"--{name}" for name, value in how.items() if value is not None]):
        raise RecipeError(f"{unused[0]} goes with --data FILE")
    probes, forget = (
        read_questions(given[name], f"--{name}", registry) if given[name] else None for name in ("probes", "forget")
    )
    trained = [one for subject in subjects for one in subject.artifact.plan["data"]["sets"]]
    heldout = open_heldout(data, trained, how, registry) if data else None
    if not (probes or forget or heldout):
        probes = recipe_questions(subjects)
    return Wanted(
        asked_sets(probes, heldout, forget, given["ask"]),
        heldout,
        Sampling(given["max_new_tokens"]),
        given["max_rejected"],
        before=not given["after_only"],
    )


def _hand_over(write: str, subjects: list[Subject], folder: Path, registry: Registry, console: Console) -> None:
    from ftx.errors import RecipeError
    from ftx.eval.harness import handed, remote_code, write_config

    if len(subjects) > 1:
        raise RecipeError("--write: a config is of one model; name one run")
    artifact = subjects[0].artifact
    path, command = write_config(write, artifact, folder, registry)
    if said := remote_code(handed(artifact, registry)):
        console.warn(said)
    console.event({"event": "written", "harness": write, "config": str(path), "command": command})
    console.say(f"{write} is not part of ftx; where it is installed, run: {command}")
