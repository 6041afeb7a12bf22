"""`ftx export`."""

from __future__ import annotations

from pathlib import Path

import click

from ftx.cli.options import family_options, given_family
from ftx.console import Console
from ftx.plugins import Registry


@click.command("export", epilog="Example: ftx export runs/cats/merged --layout huggingface --out cats-hf")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--layout", required=True, metavar="NAME", help="The layout to write; the family's layouts.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the result.")
@family_options
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def export(
    registry: Registry,
    path: Path,
    layout: str,
    out: Path,
    family: str | None,
    settings: tuple[str, ...],
    json_lines: bool,
) -> None:
    """Write the whole model in PATH (a folder, a merged or full result, a run) in another layout, bit for bit."""
    from ftx.export.convert import export as write_layout

    write_layout(path, layout, out, given_family(family, settings), registry)
    console = Console(json_lines=json_lines)
    console.event({"event": "exported", "folder": str(out), "layout": layout})
    console.say(f"{layout} layout in {out}")
