"""`ftx run`; in a module of another name, as `ftx.cli.run` is what runs the command line itself."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import click

from ftx.console import Console
from ftx.errors import HubError, RecipeError
from ftx.plugins import Registry

if TYPE_CHECKING:
    from ftx.containers.call import Asked

USERS = 1 << 31  # numbers of users that engines take


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog="Examples: ftx run -- train recipe.yaml   ftx run -- torchrun --nproc-per-node 8 -m ftx train recipe.yaml",
)
@click.option(
    "--image", metavar="NAME", help="An image, or an environment's name; default: FTX_IMAGE, or ftx:cpu or ftx:cuda."
)
@click.option("--gpus", metavar="all|none|0,1", help="GPUs inside; default: all that this machine has.")
@click.option(
    "--network",
    is_flag=False,
    flag_value="host",
    metavar="[host|none|NAME]",
    help="Open the network. Serving, publishing and downloading have it, the rest has none.",
)
@click.option("--mount", "mounts", multiple=True, metavar="PATH[:rw]", help="A folder that COMMAND does not name.")
@click.option("--env", "variables", multiple=True, metavar="NAME", help="A variable that goes along; never a token.")
@click.option("--memory", metavar="SIZE", help="The most memory, as 16g; beyond it ends with exit code 4.")
@click.option("--user", metavar="UID:GID", help="Who runs it inside; default: you.")
@click.option("--engine", type=click.Choice(["docker", "podman"]), help="Default: the first that answers.")
@click.option("--dry-run", is_flag=True, help="Print the engine's command and end.")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.pass_context
def run(
    context: click.Context,
    words: tuple[str, ...],
    image: str | None,
    gpus: str | None,
    network: str | None,
    mounts: tuple[str, ...],
    variables: tuple[str, ...],
    memory: str | None,
    user: str | None,
    engine: str | None,
    dry_run: bool,
) -> None:
    """Run COMMAND, a command line of ftx, in a container: the same words, paths and exit codes.

    What COMMAND names is mounted at its own path, read-only unless it is written; tokens travel as files.
    """
    from ftx.containers.call import Asked

    asked = Asked(
        list(words),
        image=image,
        engine=engine,
        gpus=_matching("--gpus", gpus, r"all|none|\d+(,\d+)*", "all, none, or numbers as 0,1"),
        network=network,
        memory=_matching("--memory", memory, r"\d+[bkmgBKMG]?", "a number with k, m or g, as 16g"),
        user=_user(user),
        mounts=mounts,
        variables=variables,
    )
    context.exit(run_inside(asked, context.find_object(Registry), dry_run=dry_run))


def run_inside(asked: Asked, registry: Registry | None, *, dry_run: bool = False) -> int:
    """Carry it out, or print the engine's command; the exit code. Raises FtxError."""
    from ftx.containers.call import carry_out, show
    from ftx.containers.command import NONE, ftx_words, network_of

    assert registry is not None  # the group puts it there
    console = Console(json_lines="--json" in asked.words)
    if dry_run:
        command = show(asked, registry, console.say)
        console.event({"event": "command", "command": command})
        if not console.json_lines:
            console.output(shlex.join(command))
        return 0
    code = carry_out(asked, registry, console.say)
    if code == HubError.exit_code and network_of(ftx_words(asked.words)[1], asked.network) == NONE:
        console.say("note: it had no network in the container; open it with: ftx run --network -- COMMAND")
    return code


def _matching(option: str, text: str | None, form: str, wanted: str) -> str | None:
    if text is not None and not re.fullmatch(form, text):
        raise RecipeError(f"{option} {text}: write {wanted}")
    return text


def _user(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    wanted = f"numbers below {USERS}, as 1000:1000"
    user, _, group = str(_matching("--user", text, r"\d{1,10}(:\d{1,10})?", wanted)).partition(":")
    if max(int(user), int(group or user)) >= USERS:
        raise RecipeError(f"--user {text}: write {wanted}")
    return int(user), int(group or user)
