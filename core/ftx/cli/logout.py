"""`ftx logout`."""

from __future__ import annotations

import click

from ftx.cli.options import hub_part
from ftx.console import Console
from ftx.plugins import Registry


@click.command(epilog="Example: ftx logout huggingface   ftx logout https://git.example.org")
@click.argument("hub")
@click.option("--set", "settings", multiple=True, metavar="A=B", help="An option of the hub, as host=https://...")
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def logout(registry: Registry, hub: str, settings: tuple[str, ...], json_lines: bool) -> None:
    """Forget the token that `ftx login` kept for HUB. On the hub it stays good: withdraw it on its page."""
    from ftx.publish.accounts import logout as log_out

    console = Console(json_lines=json_lines)
    part = hub_part(registry, hub, settings)
    gone = log_out(part)
    left = part.credential()
    source = left.source if left else None
    console.event({"event": "logout", "hub": gone.hub, "place": gone.place, "user": gone.user, "left": source})
    console.say(f"the token for {gone.place} is forgotten here; it stays good there until you withdraw it")
    if source:
        console.say(f"there is still one: of {source}")
