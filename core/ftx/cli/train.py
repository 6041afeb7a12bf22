"""`ftx train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from ftx.cli.options import recipe_options, written_recipe
from ftx.console import Console
from ftx.plugins import Registry


@click.command(epilog="Example: ftx train --plugin internlm2 --model BASE --data rows.jsonl")
@recipe_options
@click.option("--resume", metavar="PATH|auto", help="Go on from a checkpoint; auto: the newest of this run.")
@click.pass_obj
def train(
    registry: Registry,
    /,
    recipe: Path | None,
    family: str | None,
    data: tuple[str, ...],
    json_lines: bool,
    resume: str | None,
    **given: Any,
) -> None:
    """Tune a model as RECIPE (a YAML file) and the flags say; flags win."""
    written = written_recipe(recipe, family, data, given)
    from ftx.plan import make_plan
    from ftx.train.fit import fit

    # Under torchrun each process runs this; the others would say all things again.
    first = os.environ.get("RANK", "0") == "0"
    console = Console(json_lines=json_lines and first, quiet=not first)
    plan = make_plan(written, registry)
    for note in plan.notes:
        console.say(f"note: {note}")
    artifact = fit(plan, console, resume)
    if artifact.kind == "adapter":
        console.say(f"next: ftx chat {plan.out}   or   ftx merge {plan.out}")
    else:
        console.say(f"next: ftx chat {plan.out}")
