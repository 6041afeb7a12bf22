"""`ftx export`."""

from __future__ import annotations

from pathlib import Path

import click

from ftx.cli.options import family_options, given_family
from ftx.console import Console
from ftx.plugins import Registry


class _LayoutUnlessNamed(click.Group):
    """`ftx export PATH --layout NAME` is the layout command, so that its name need not be said."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *context.help_option_names):
            args = ["layout", *args]
        return super().parse_args(context, args)


@click.group(cls=_LayoutUnlessNamed, epilog="Example: ftx export runs/cats/merged --layout huggingface --out cats-hf")
def export() -> None:
    """Write a whole model for other tools: PATH --layout NAME, or gguf PATH."""


@export.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--layout", required=True, metavar="NAME", help="The layout to write; the family's layouts.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the result.")
@family_options
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def layout(
    registry: Registry,
    path: Path,
    layout: str,
    out: Path,
    family: str | None,
    settings: tuple[str, ...],
    json_lines: bool,
) -> None:
    """Write the whole model in PATH (a folder, a merged or full result, a run) in another layout, bit for bit."""
    from ftx.export.convert import export as write_layout

    write_layout(path, layout, out, given_family(family, settings), registry)
    console = Console(json_lines=json_lines)
    console.event({"event": "exported", "folder": str(out), "layout": layout})
    console.say(f"{layout} layout in {out}")


@export.command(epilog="Then: ollama create NAME -f OUT/Modelfile")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--converter", required=True, type=click.Path(path_type=Path), help="llama.cpp's convert_hf_to_gguf.py.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the result.")
@click.option("--outtype", default="f16", show_default=True, metavar="TYPE", help="f32, f16, bf16, q8_0 or auto.")
@click.option("--python", type=click.Path(path_type=Path), help="Runs the converter; default: ftx's own.")
@click.option("--num-ctx", type=click.IntRange(1), help="Ollama's context in tokens; default: the model's, up to 8192.")
@family_options
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def gguf(
    registry: Registry,
    path: Path,
    converter: Path,
    out: Path,
    outtype: str,
    python: Path | None,
    num_ctx: int | None,
    family: str | None,
    settings: tuple[str, ...],
    json_lines: bool,
) -> None:
    """Write the text model in PATH as GGUF with llama.cpp's converter, and an Ollama Modelfile with its template."""
    from ftx.errors import RecipeError, did_you_mean
    from ftx.export.gguf import KINDS, write_gguf
    from ftx.export.opened import open_whole

    if outtype not in KINDS:
        raise RecipeError(f"--outtype: '{outtype}' is not known; {did_you_mean(outtype, KINDS)}")
    console = Console(json_lines=json_lines)
    whole = open_whole(path, registry, given_family(family, settings))
    write_gguf(whole, converter, out, console.say, python=python, kind=outtype, num_ctx=num_ctx)
    console.event({"event": "exported", "folder": str(out), "layout": "gguf", "outtype": outtype})
    console.say(f"model.gguf and Modelfile in {out}; to run it: ollama create {out.name} -f {out}/Modelfile")
