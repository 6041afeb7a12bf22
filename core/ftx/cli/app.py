"""`ftx app`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ftx.cli.options import given_family, part_options
from ftx.console import Console
from ftx.errors import RecipeError
from ftx.plugins import Registry

FOLDER = click.Path(path_type=Path)


@click.group("app", epilog="Templates: ftx plugins. Example: ftx app new gradio_chat --model runs/cats --out cats-app")
def app() -> None:
    """Make an app for a model, check that it answers as the model does, run it."""


@app.command()
@click.argument("template")
@click.option("--model", required=True, type=FOLDER, help="A run, a merged or full result, or a model folder.")
@click.option("--out", required=True, type=FOLDER, help="Folder of the app.")
@click.option(
    "--target", default="local", show_default=True, help="local, huggingface, huggingface-docker, modelscope, openxlab."
)
@click.option("--plugin", "--family", "family", metavar="NAME", help="Model family; default: found.")
@click.option("--set", "settings", multiple=True, metavar="A=B", help="An option of the template, or family.A=B.")
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def new(
    registry: Registry,
    template: str,
    model: Path,
    out: Path,
    target: str,
    family: str | None,
    settings: tuple[str, ...],
    json_lines: bool,
) -> None:
    """Write a project from TEMPLATE that runs without ftx: page, model, requirements, Dockerfile, tests."""
    from ftx.apps.make import make_app

    ofs_family = tuple(setting for setting in settings if setting.startswith("family."))
    part = part_options(registry.app(template), tuple(one for one in settings if one not in ofs_family))
    make_app(part, model, target, out, given_family(family, ofs_family), registry)
    console = Console(json_lines=json_lines)
    console.event({"event": "app", "folder": str(out), "template": template, "target": target})
    console.say(f"{template} for {target} in {out}; try it: ftx app run {out}, and check it: ftx app check {out}")


@app.command()
@click.argument("folder", type=FOLDER)
@click.option("--python", type=FOLDER, help="An interpreter that has the requirements; default: one is made.")
@click.option("--browser", is_flag=True, help="Ask on the page too, in Chromium (pip install 'ftx[apps]').")
@click.option("--screenshot", type=FOLDER, help="With --browser: a PNG of the page after the answer.")
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def check(
    registry: Registry, folder: Path, python: Path | None, browser: bool, screenshot: Path | None, json_lines: bool
) -> None:
    """Start the app in FOLDER, ask it, and compare with what ftx answers; exit code 7 when they differ."""
    from ftx.apps.check import check_app, refuse_differences
    from ftx.apps.environment import app_python
    from ftx.apps.serve import app_manifest

    if screenshot is not None and not browser:
        raise RecipeError(f"--screenshot {screenshot} goes with --browser, which opens the page")
    console = Console(json_lines=json_lines)
    app_manifest(folder)
    interpreter = app_python(folder, python, console.say)
    compared = check_app(folder, interpreter, browser=browser, picture=screenshot, registry=registry)
    for one in compared:
        console.event({"event": "app_answer", **vars(one)})
        console.say(f"{'differs' if one.problem else 'same'} ({one.way}): {one.question} -> {one.answer}")
    refuse_differences(compared)


@app.command()
@click.argument("folder", type=FOLDER)
@click.option("--python", type=FOLDER, help="An interpreter that has the requirements; default: one is made.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port; default: the app's own.")
@click.option("--host", help="Address to listen on; default: the app's own.")
def run(folder: Path, python: Path | None, port: int | None, host: str | None) -> None:
    """Run the app in FOLDER until it is interrupted."""
    from ftx.apps.environment import app_python
    from ftx.apps.serve import app_manifest, run_app

    app_manifest(folder)
    sys.exit(run_app(folder, app_python(folder, python, Console().say), port, host))
