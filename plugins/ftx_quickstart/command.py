"""`ftx quickstart`: ask, tune, merge, ask again, all on the embedded base."""

from __future__ import annotations

from pathlib import Path

import click

from ftx.console import Console
from ftx.plugins import Registry


@click.command()
@click.option("--name", default="小明", show_default=True, help="Whose assistant the model becomes.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; default: a new one under runs/.")
@click.option("--method", default="lora", show_default=True, help="Training method.")
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def quickstart(registry: Registry, name: str, out: Path | None, method: str, json_lines: bool) -> None:
    """Tune an embedded tiny InternLM2 to a name: ask it, tune it, merge it, ask again, compare."""
    from ftx.errors import RecipeError
    from ftx_quickstart.first_run import first_run, free_folder
    from ftx_quickstart.report import show

    if not name.strip():
        raise RecipeError("--name: give a name that is not empty")
    registry.method(method)
    console = Console(json_lines=json_lines)
    result = first_run(registry, name.strip(), out or free_folder(Path("runs")), method, console)
    show(result, console)
    result.prove()
