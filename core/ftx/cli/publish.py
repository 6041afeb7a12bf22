"""`ftx publish`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftx.cli.options import part_options
from ftx.console import Console
from ftx.plugins import Registry

if TYPE_CHECKING:
    from ftx.contracts import Publisher
    from ftx.publish.road import Prepared


@click.command(
    epilog="Example: ftx publish huggingface runs/cats/adapter --repo ann/cats --base internlm/internlm2-1_8b"
)
@click.argument("publisher")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--repo", metavar="OWNER/NAME", help="The repository; default: where it was published before.")
@click.option("--base", metavar="OWNER/NAME", help="The base model, as it is called on the hub.")
@click.option("--license", "licence", metavar="ID", help="The licence of the result; default: the base's.")
@click.option(
    "--license-agreed", is_flag=True, help="Answer for a licence that the base's does not name or allow; recorded."
)
@click.option("--public", is_flag=True, help="Let everyone see it, as the last step.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing.")
@click.option("--hardware", metavar="MACHINE", help="What an app runs on there, see ftx size; any: do not look.")
@click.option("--replace", is_flag=True, help="Take whatever else the repository holds out of it.")
@click.option("--allow-pickle", is_flag=True, help="Send pickled weights too, once their opcodes are found harmless.")
@click.option("--with-data", is_flag=True, help="Send the data that lies in the folder too.")
@click.option(
    "--secret", "secrets", multiple=True, metavar="NAME", help="Of an app: its value is read from NAME or NAME_FILE."
)
@click.option(
    "--variable", "variables", multiple=True, metavar="NAME=VALUE", help="Of an app: public, for all to read."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--set", "settings", multiple=True, metavar="A=B", help="An option of the publisher, as host=https://...")
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def publish(
    registry: Registry,
    publisher: str,
    path: Path | None,
    repo: str | None,
    base: str | None,
    licence: str | None,
    license_agreed: bool,
    public: bool,
    dry_run: bool,
    hardware: str | None,
    replace: bool,
    allow_pickle: bool,
    with_data: bool,
    secrets: tuple[str, ...],
    variables: tuple[str, ...],
    yes: bool,
    settings: tuple[str, ...],
    json_lines: bool,
) -> None:
    """Publish the artefact or app in PATH, by default the one sealed last below this folder, with PUBLISHER.

    It goes out private, is listed anew and compared; publish.json beside it then says what lies where.
    """
    from ftx.publish.app_settings import app_settings
    from ftx.publish.gate import Consent
    from ftx.publish.road import Wish, carry_out, known_repo, newest, prepared

    console = Console(json_lines=json_lines)
    kind = registry.publisher(publisher)
    part = part_options(kind, (*settings, *_machine(kind, hardware)))
    path = path or newest(Path.cwd())
    repo = repo or known_repo(path, part.name) or _asked_repo(path)
    consent = Consent(allow_pickle, with_data)
    settings_of_app = app_settings(secrets, variables)
    wish = Wish(repo, public, replace, consent, base, licence, license_agreed, settings_of_app, hardware=hardware)
    with prepared(path, part, wish, dry=dry_run) as plan:
        _show(plan, console)
        if dry_run:
            return
        if not yes and (public or not plan.done or _changes_app(plan)):
            _confirm(plan)
        try:
            carry_out(plan, console.event)
        finally:
            console.close()


def _machine(publisher: type[Publisher], hardware: str | None) -> tuple[str, ...]:
    """--hardware as an option of the publisher, where it has that. Raises RecipeError for a machine nobody lends."""
    from ftx.errors import RecipeError
    from ftx.publish.hardware import hardware as table
    from ftx.publish.sizing import ANY

    if hardware in (None, ANY):
        return ()
    lent = table().get(publisher.name)
    if lent is None:
        raise RecipeError(f"--hardware: {publisher.hub} runs no apps; leave it out")
    settable = "hardware" in publisher.model_fields
    tier = lent.tier(str(hardware), settable=settable)
    return (f"hardware={tier.name}",) if settable else ()


def _asked_repo(path: Path) -> str:
    from ftx.errors import RecipeError

    if not sys.stdin.isatty():
        raise RecipeError(f"--repo: say where {path} goes, as --repo OWNER/NAME")
    return str(click.prompt("repository (OWNER/NAME)", err=True))


def _confirm(plan: Prepared) -> None:
    from ftx.errors import RecipeError

    if not sys.stdin.isatty():
        raise RecipeError("nobody is there to be asked; look at it with --dry-run, then add --yes")
    told = plan.remote is None or plan.remote.private
    private = "as a private repository" if told else "(only its page tells whether it is private)"
    seen = "for everyone to see" if plan.wish.public else private
    address = plan.publisher.address(plan.wish.repo)
    question = f"send it to {address} {seen}?" if plan.wish.public or not plan.done else f"change the app at {address}?"
    click.confirm(question, abort=True, err=True)


def _changes_app(plan: Prepared) -> bool:
    """Whether secrets, variables or the machine of the app there are set, be its files there or not."""
    return plan.subject.kind == "app" and bool(plan.wish.settings or getattr(plan.publisher, "hardware", None))


def _show(plan: Prepared, console: Console) -> None:
    event = plan.as_event()
    if console.json_lines:
        console.event(event)
        return
    rows = [(file["path"], f"{file['size']:,}", "send" if file["send"] else "there already") for file in event["files"]]
    rows += [(name, "", "remove") for name in event["removes"]]
    console.table(f"{event['kind']} -> {event['address']}", ("file", "bytes", ""), rows)
    if event["send_bytes"]:
        fast, slow = event["minutes"]
        time = f": {fast} to {slow} minutes at 20 to 2 MB/s" if slow >= 1 else ""
        console.say(f"{event['send_bytes']:,} bytes to send{time}")
    if event["in_one_piece"]:
        console.warn(
            f"sent in one piece, so that a cut costs all of it: {', '.join(event['in_one_piece'])}; results have the "
            "shards of their base, so that one saved with save_pretrained(max_shard_size='2GB') gives smaller ones"
        )
    if licence := event["license"]:
        console.say(f"licence {licence['id']}; the base's: {licence['base'] or 'unknown'}")
    if event["memory"]:
        console.say(event["memory"]["sentence"])
    if event["secrets"]:
        console.say(f"secrets, which nobody can read there: {', '.join(event['secrets'])}")
    if event["variables"]:
        told = ", ".join(f"{name}={value}" for name, value in event["variables"].items())
        console.say(f"variables, public for all to read: {told}")
    if event["left_behind"]:
        console.say(f"left behind, as it is not sealed: {', '.join(event['left_behind'])}")
    if event["unreachable"]:
        console.warn(event["unreachable"])
    if event["exists"] is False:
        for step in event["by_hand"]:
            console.say(step)
