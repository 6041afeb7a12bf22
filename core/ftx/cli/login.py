"""`ftx login`."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from ftx.cli.options import hub_part
from ftx.console import Console
from ftx.contracts import Publisher
from ftx.errors import RecipeError
from ftx.plugins import Registry


@click.command(
    epilog="Example: ftx login huggingface   ftx login openxlab --user ann   ftx login https://git.example.org"
)
@click.argument("hub")
@click.argument("more", nargs=-1, metavar="")
@click.option("--token-stdin", is_flag=True, help="Read the token from a pipe instead of asking for it.")
@click.option("--user", metavar="NAME", help="Your name there, which OpenXLab and git hosts want beside the token.")
@click.option("--repo", metavar="OWNER/NAME", help="A repository of yours to try the token on, for git hosts.")
@click.option(
    "--store", type=click.Choice(["auto", "keyring", "file"]), default="auto", help="Default: the keyring if any."
)
@click.option("--set", "settings", multiple=True, metavar="A=B", help="An option of the hub, as host=https://...")
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.option("--token", "argv_token", hidden=True)
@click.pass_obj
def login(
    registry: Registry,
    hub: str,
    more: tuple[str, ...],
    token_stdin: bool,
    user: str | None,
    repo: str | None,
    store: str,
    settings: tuple[str, ...],
    json_lines: bool,
    argv_token: str | None,
) -> None:
    """Keep a token for HUB: huggingface, modelscope, openxlab, or the address of a git host.

    The token is asked for, unseen, or read from a pipe with --token-stdin; the hub must know it before it is kept, in
    the keyring (pip install 'ftx[keyring]') or in a file that is yours alone.
    """
    from ftx.publish.accounts import checked_token, chosen_store
    from ftx.publish.accounts import login as log_in

    if more or argv_token:
        raise RecipeError(
            "a token on the command line is seen by everyone on this machine and kept in the shell's history: withdraw "
            "it on the hub's page, make another, and type it when asked"
        )
    console = Console(json_lines=json_lines)
    part = hub_part(registry, hub, settings)
    kept_in, why = chosen_store(store)
    name = _name(part, user)
    token = checked_token(_read(part, token_stdin))
    account = log_in(part, token, name, repo, kept_in)
    console.event({"event": "login", **asdict(account), "store": kept_in})
    console.say(account.sentence)
    if why:
        console.say(f"it is kept in a file that is yours alone, as there is no keyring to use: {why}")


def _name(part: Publisher, given: str | None) -> str | None:
    """The user's name, for places that want one beside the token. Raises RecipeError."""
    import os

    if not part.user_variable:
        return None
    name = given or os.environ.get(part.user_variable)
    if not name and sys.stdin.isatty():
        name = click.prompt(f"your name on {part.login_address()}", err=True)
    if not name:
        raise RecipeError(f"--user: say your name on {part.login_address()}, which it wants beside the token")
    return name


def _read(part: Publisher, piped: bool) -> str:
    if piped:
        return sys.stdin.read(1 << 16)
    if not sys.stdin.isatty():
        raise RecipeError("nobody is there to type the token; pipe it in: ftx login HUB --token-stdin < FILE")
    return str(click.prompt(f"token ({part.settings_page})", hide_input=True, err=True))
