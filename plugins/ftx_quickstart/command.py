"""`ftx quickstart`: ask, tune, merge, ask again, all on an embedded base."""

from __future__ import annotations

from pathlib import Path

import click

from ftx.console import Console
from ftx.plugins import Registry

NAME = "小明"


@click.command()
@click.option("--plugin", default="internlm2", show_default=True, help="internlm2, or internvl for pictures.")
@click.option("--name", help=f"Whose assistant internlm2 becomes; default: {NAME}.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; default: a new one under runs/.")
@click.option("--method", default="lora", show_default=True, help="Training method.")
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def quickstart(
    registry: Registry, plugin: str, name: str | None, out: Path | None, method: str, json_lines: bool
) -> None:
    """Tune an embedded tiny model: ask it, tune it, merge it, ask again, compare.

    InternLM2 learns whose assistant it is, InternVL2 to let the things in a picture say hello.
    """
    from ftx.errors import RecipeError, did_you_mean

    tours = {"internlm2": _names, "internvl": _pictures}
    if plugin not in tours:
        raise RecipeError(f"--plugin: '{plugin}' has no quickstart; {did_you_mean(plugin, tours)}")
    registry.method(method)
    tours[plugin](registry, name, out, method, Console(json_lines=json_lines))


def _names(registry: Registry, name: str | None, out: Path | None, method: str, console: Console) -> None:
    from ftx.errors import RecipeError
    from ftx_quickstart.first_run import first_run, free_folder
    from ftx_quickstart.report import show

    owner = NAME if name is None else name.strip()
    if not owner:
        raise RecipeError("--name: give a name that is not empty")
    result = first_run(registry, owner, out or free_folder(Path("runs")), method, console)
    show(result, console)
    result.prove()


def _pictures(registry: Registry, name: str | None, out: Path | None, method: str, console: Console) -> None:
    from ftx.errors import RecipeError
    from ftx_quickstart.first_run import free_folder
    from ftx_quickstart.picture_report import show
    from ftx_quickstart.picture_run import picture_run

    if name is not None:
        raise RecipeError("--name goes with --plugin internlm2; leave it out")
    result = picture_run(registry, out or free_folder(Path("runs")), method, console)
    show(result, console)
    result.prove()
