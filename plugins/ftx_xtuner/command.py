"""`ftx xtuner`: take over what XTuner trained."""

from __future__ import annotations

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
    """Take over what XTuner trained.

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
