"""`ftx whoami`."""

from __future__ import annotations

from dataclasses import asdict

import click

from ftx.cli.options import hub_part
from ftx.console import Console
from ftx.errors import FtxError, HubError, RecipeError, RepositoryWanted
from ftx.plugins import Registry


@click.command(
    epilog="Example: ftx whoami   ftx whoami huggingface --json   ftx whoami https://git.example.org --repo ann/cats"
)
@click.argument("hub", required=False)
@click.option("--repo", metavar="OWNER/NAME", help="A repository of yours to try the token on, for git hosts.")
@click.option("--set", "settings", multiple=True, metavar="A=B", help="An option of the hub, as host=https://...")
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def whoami(registry: Registry, hub: str | None, repo: str | None, settings: tuple[str, ...], json_lines: bool) -> None:
    """Ask HUB, by default all that a token is found for, who you are, and say where the token comes from."""
    from ftx.publish import accounts

    console = Console(json_lines=json_lines)
    if repo and not hub:
        raise RecipeError("--repo: say whose it is: ftx whoami HUB --repo OWNER/NAME")
    hubs = [(hub_part(registry, hub, settings), None)] if hub else list(accounts.known(registry))
    if not hubs:
        raise HubError(
            "there is no token for any hub; run: ftx login huggingface (or modelscope, openxlab, https://...)"
        )
    problems: list[str] = []
    for part, login in hubs:
        try:
            account = accounts.whoami(part, login, repo)
        except RepositoryWanted as error:
            if hub:
                raise
            place = part.login_address()
            console.event({"event": "not_asked", "hub": part.name, "place": place, "why": str(error)})
            console.say(f"{part.name} ({place}): not asked; {error}")
            continue
        except FtxError as error:
            if hub:
                raise
            problems += error.problems
            continue
        console.event({"event": "whoami", **asdict(account)})
        console.say(account.sentence)
    if problems:
        raise HubError(*problems)
