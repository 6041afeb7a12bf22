"""`ftx deploy`."""

from __future__ import annotations

from pathlib import Path

import click

from ftx.console import Console


@click.command()
@click.argument("kind", type=click.Choice(["compose", "kubernetes"]))
@click.option("--out", type=click.Path(path_type=Path), default=Path(), help="Folder to write into; default: this one.")
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
def deploy(kind: str, out: Path, json_lines: bool) -> None:
    """Write the files with which Compose or Kubernetes trains and serves, to be adapted."""
    from ftx.containers.deploy import NEXT, write_files

    console = Console(json_lines=json_lines)
    files = [str(path) for path in write_files(kind, out)]
    console.event({"event": "written", "files": files})
    console.say(f"written: {', '.join(files)}; {NEXT[kind]}")
