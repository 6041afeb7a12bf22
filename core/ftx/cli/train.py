"""`ftx train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from ftx.cli.inside import Containable, run_contained
from ftx.cli.options import recipe_options, written_recipe
from ftx.console import Console
from ftx.plugins import Registry


@click.command(cls=Containable, epilog="Example: ftx train --plugin internlm2 --model BASE --data rows.jsonl")
@recipe_options
@click.option("--in-container", metavar="[=IMAGE]", help="Run in a container; ftx run has more options.")
@click.option("--resume", metavar="PATH|auto", help="Go on from a checkpoint; auto: the newest of this run.")
@click.pass_context
def train(
    context: click.Context,
    /,
    recipe: Path | None,
    family: str | None,
    data: tuple[str, ...],
    json_lines: bool,
    resume: str | None,
    in_container: str | None,
    **given: Any,
) -> None:
    """Tune a model as RECIPE (a YAML file) and the flags say; flags win."""
    if in_container is not None:
        run_contained(context, in_container)
    registry: Registry = context.obj
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
