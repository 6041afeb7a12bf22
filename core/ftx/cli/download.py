"""`ftx download`."""

from __future__ import annotations

from pathlib import Path

import click

from ftx.cli.options import part_options
from ftx.cli.verify import show_findings
from ftx.console import Console
from ftx.plugins import Registry


@click.command(epilog="Example: ftx download huggingface:ann/cats@main --out cats")
@click.argument("name", metavar="HUB:OWNER/NAME[@REVISION]")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the result; must not exist.")
@click.option("--verify", is_flag=True, help="Then compare its forms and answers, as ftx verify does.")
@click.option("--base", type=click.Path(path_type=Path), help="With --verify: an adapter's base, fetched if not there.")
@click.option("--set", "settings", multiple=True, metavar="A=B", help="An option of the hub, as host=https://...")
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def download(
    registry: Registry,
    name: str,
    out: Path,
    verify: bool,
    base: Path | None,
    settings: tuple[str, ...],
    json_lines: bool,
) -> None:
    """Fetch a model from a hub; the same command again goes on after an interruption.

    Every file is compared with the hub's listing, and with its seal where it is a result of ftx. HF_ENDPOINT names a
    mirror of Hugging Face, MODELSCOPE_ENDPOINT one of ModelScope.
    """
    from ftx.publish.download import base_of, parsed, verified
    from ftx.publish.download import download as fetch

    console = Console(json_lines=json_lines)
    named = parsed(name, registry)
    hub = part_options(registry.publisher(named.hub), settings)
    revision = fetch(named, hub, out)
    needs = base_of(out)
    console.event({"event": "downloaded", "folder": str(out), "repo": named.repo, "revision": revision, "base": needs})
    console.say(f"{named.repo} at {revision[:12]} in {out}")
    if needs and not verify:
        console.say(f"it is an adapter of {needs}: fetch that too, and name its folder with --base")
    if verify:
        show_findings(verified(out, named, hub, registry, base), console)
