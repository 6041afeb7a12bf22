"""`ftx xtuner`: take over what XTuner trained, or run XTuner itself."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ftx.console import Console
from ftx.plugins import Registry

if TYPE_CHECKING:
    from ftx_xtuner.take_over import Found

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def xtuner() -> None:
    """Take over what XTuner trained, or run XTuner itself.

    PATH is a .pth file, the folder of that name that DeepSpeed writes, or an adapter on the official names.
    """


def shared_options(command: F) -> F:
    """PATH and how it is read."""
    command = click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")(command)
    command = click.option(
        "--alpha", type=click.FloatRange(0, min_open=True), help="LoRA's alpha, where none is found."
    )(command)
    command = click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="The training's config, where PATH holds none; never executed.",
    )(command)
    command = click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the result.")(
        command
    )
    command = click.option(
        "--base", type=click.Path(path_type=Path), help="The base model; default: as PATH names it."
    )(command)
    return click.argument("path", type=click.Path(path_type=Path))(command)


@xtuner.command()
@shared_options
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float16", "bfloat16", "float32"]),
    help="Of the result; auto: the base's own, rounded once; default: XTuner's choice.",
)
@click.pass_obj
def merge(
    registry: Registry,
    /,
    path: Path,
    base: Path | None,
    out: Path,
    config: Path | None,
    alpha: float | None,
    dtype: str | None,
    json_lines: bool,
) -> None:
    """Merge what was trained into the base, on its stored names, to the bits that XTuner's own tools give."""
    from ftx_xtuner import take_over

    found = take_over.find(path, base, config, alpha)
    stored = take_over.merge(found, out, dtype, registry)
    _tell(found, out, "merged", stored, Console(json_lines=json_lines))


@xtuner.command()
@shared_options
@click.pass_obj
def adapter(
    registry: Registry,
    /,
    path: Path,
    base: Path | None,
    out: Path,
    config: Path | None,
    alpha: float | None,
    json_lines: bool,
) -> None:
    """Turn an adapter on official names into one of ftx, which `ftx chat` asks and peft trains on."""
    from ftx.plan import find_family
    from ftx_xtuner import take_over

    found = take_over.find(path, base, config, alpha)
    stored = take_over.adapter(found, out, find_family({"name": "auto"}, found.base, registry))
    _tell(found, out, "adapter", stored, Console(json_lines=json_lines))


@xtuner.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The recipe's file; default: stdout.")
def recipe(config: Path, out: Path | None) -> None:
    """Write the recipe that trains as CONFIG, a training config of XTuner, says. CONFIG is read and never run."""
    import yaml

    from ftx import RecipeError
    from ftx.atomic import write_text
    from ftx_xtuner.recipe import recipe_of

    text = yaml.safe_dump(recipe_of(config), allow_unicode=True, sort_keys=False, default_flow_style=None)
    if out is None:
        click.echo(text, nl=False)
    elif out.exists():
        raise RecipeError(f"--out: {out} exists already; give another name")
    else:
        write_text(out, text)


@xtuner.command(
    context_settings={"allow_interspersed_args": False},
    epilog="Example: ftx xtuner run --image ftx:xtuner -- train config.py --work-dir work",
)
@click.option("--image", metavar="NAME", help="Run in this image, as ftx:xtuner, instead of the environment.")
@click.option(
    "--mount",
    "mounts",
    type=click.Path(path_type=Path),
    multiple=True,
    help="What the image shall see beside this folder and what the command and its config name.",
)
@click.option("--gpus", is_flag=True, help="Give the image all GPUs.")
@click.option("--print", "show", is_flag=True, help="Print the command and end.")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.pass_obj
def run(
    registry: Registry, /, words: tuple[str, ...], image: str | None, mounts: tuple[Path, ...], gpus: bool, show: bool
) -> None:
    """Run COMMAND, a command line of XTuner, in its environment (ftx env create xtuner) or its image.

    It takes the place of ftx: what it prints and its exit code are XTuner's.
    """
    from ftx import RecipeError
    from ftx_xtuner import engine

    if image is None and (mounts or gpus):
        raise RecipeError(f"{'--mount' if mounts else '--gpus'} is for an image; add --image {engine.IMAGE}")
    variables = dict(os.environ)
    if image:
        command = engine.in_image(words, image, mounts, gpus)
    else:
        command, variables = engine.in_environment(words, registry)
    if show:
        click.echo(shlex.join(command))
        return
    os.execvpe(command[0], command, variables)  # noqa: S606 (no shell)


def _tell(found: Found, out: Path, kind: str, dtype: str, console: Console) -> None:
    if found.left:
        console.warn(f"{', '.join(found.left)} of the checkpoint are not of {found.base} and are left out")
    console.event(
        {
            "event": "taken_over",
            "kind": kind,
            "out": str(out),
            "dtype": dtype,
            "base": str(found.base),
            "tuned": len(found.trained.names),
            "template": found.config.template,
        }
    )
    console.say(f"{kind} ({dtype}) in {out}: {len(found.trained.names)} tensors tuned on {found.base}")
