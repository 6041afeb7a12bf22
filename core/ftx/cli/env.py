"""`ftx env`: environments of their own for plugins whose dependencies cannot share ours."""

from __future__ import annotations

from pathlib import Path

import click

from ftx.console import Console
from ftx.plugins import Registry

JSON = click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")


@click.group()
def env() -> None:
    """Make, list, check and remove the environments that plugins need apart from ftx's own.

    They lie in ftx's cache (FTX_CACHE) and are used by their plugins without further words.
    """


@env.command()
@click.argument("name")
@click.option("--python", type=click.Path(path_type=Path), help="The interpreter to build on; default: one that fits.")
@JSON
@click.pass_obj
def create(registry: Registry, name: str, python: Path | None, json_lines: bool) -> None:
    """Make environment NAME from its plugin's lock; an older one is replaced once the new one is whole."""
    from ftx import environments

    console = Console(json_lines=json_lines)
    environment = environments.named(name, registry)
    versions = environments.create(environment, python, console.say)
    _tell(console, "created", name, environments.place_of(environment), versions)


@env.command("list")
@JSON
@click.pass_obj
def list_all(registry: Registry, json_lines: bool) -> None:
    """List all environments: ready, out of date or not made, the Pythons that fit and their images."""
    from ftx import environments

    console = Console(json_lines=json_lines)
    rows = []
    for one in environments.declared(registry).values():
        state, place = environments.state_of(one), environments.place_of(one)
        console.event(
            {
                "event": "environment",
                "name": one.name,
                "state": state,
                "folder": str(place),
                "pythons": list(one.pythons),
                "image": one.image,
            }
        )
        rows.append([one.name, state, " ".join(one.pythons), one.image or "-", str(place) if state == "ready" else "-"])
    console.table("environments", ["name", "state", "Python", "image", "folder"], rows)


@env.command()
@click.argument("name")
@JSON
@click.pass_obj
def check(registry: Registry, name: str, json_lines: bool) -> None:
    """Import the plugin's module in environment NAME and print the versions that it finds."""
    from ftx import environments

    environment = environments.named(name, registry)
    versions = environments.check(environment)
    _tell(Console(json_lines=json_lines), "checked", name, environments.place_of(environment), versions)


@env.command()
@click.argument("name")
@JSON
@click.pass_obj
def remove(registry: Registry, name: str, json_lines: bool) -> None:
    """Take environment NAME away."""
    from ftx import environments

    there = environments.remove(environments.named(name, registry))
    console = Console(json_lines=json_lines)
    console.event({"event": "removed", "name": name, "there": there})
    console.say(f"environment {name} is removed" if there else f"environment {name} was not made")


def _tell(console: Console, event: str, name: str, place: Path, versions: object) -> None:
    assert isinstance(versions, dict)
    console.event({"event": event, "name": name, "folder": str(place), "versions": versions})
    console.say(f"environment {name} is sound, in {place}")
    console.table(name, ["package", "version"], [list(pair) for pair in versions.items()])
