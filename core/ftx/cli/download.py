"""`ftx download`."""

from __future__ import annotations

from pathlib import Path

import click

from ftx.cli.options import part_options
from ftx.console import Console
from ftx.plugins import Registry


@click.command(epilog="Example: ftx download huggingface:ann/cats@main --out cats")
@click.argument("name", metavar="HUB:OWNER/NAME[@REVISION]")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the result; must not exist.")
@click.option("--set", "settings", multiple=True, metavar="A=B", help="An option of the hub, as host=https://...")
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def download(registry: Registry, name: str, out: Path, settings: tuple[str, ...], json_lines: bool) -> None:
    """Fetch a model from a hub; the same command again goes on after an interruption.

    Every file is compared with the hub's listing, and with its seal where it is a result of ftx. HF_ENDPOINT names a
    mirror of Hugging Face, MODELSCOPE_ENDPOINT one of ModelScope.
    """
    from ftx.publish.download import download as fetch
    from ftx.publish.download import parsed

    console = Console(json_lines=json_lines)
    named = parsed(name, registry)
    hub = part_options(registry.publisher(named.hub), settings)
    revision = fetch(named, hub, out)
    console.event({"event": "downloaded", "folder": str(out), "repo": named.repo, "revision": revision})
    console.say(f"{named.repo} at {revision[:12]} in {out}")
