"""`ftx plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ftx.cli.options import recipe_options, written_recipe
from ftx.console import Console
from ftx.plugins import Registry


@click.command()
@recipe_options
@click.option("--schema", "show_schema", is_flag=True, help="Print the JSON schema of recipes and stop.")
@click.pass_obj
def plan(
    registry: Registry,
    /,
    recipe: Path | None,
    family: str | None,
    data: tuple[str, ...],
    json_lines: bool,
    show_schema: bool,
    **given: Any,
) -> None:
    """Print what train would do with RECIPE and the flags; no model is loaded, no device touched."""
    from ftx.plan import Plan, make_plan, schema

    console = Console(json_lines=json_lines)
    if show_schema:
        console.output(json.dumps(schema(registry), ensure_ascii=False, indent=None if json_lines else 1))
        return
    made: Plan = make_plan(written_recipe(recipe, family, data, given), registry)
    if json_lines:
        console.event({"event": "plan", **made.as_dict()})
        return
    rows = [[name, value, made.origin_of(name)] for name, value in _flat(made.as_dict())]
    console.table(f"{made.steps} steps into {made.out}", ["what", "value", "from"], rows)


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, inner in value.items():
        if key == "origins":
            continue
        if isinstance(inner, dict):
            rows += _flat(inner, f"{prefix}{key}.")
        elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
            for i, one in enumerate(inner):
                rows += _flat(one, f"{prefix}{key}.{i}.")
        elif inner is not None:
            rows.append((f"{prefix}{key}", inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)))
    return rows
