"""`ftx lmdeploy`: serve with LMDeploy, and what it is told of a template."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ftx.artifact import model_name
from ftx.cli.options import family_options, given_family
from ftx.console import Console
from ftx.plugins import Registry


@click.group()
def lmdeploy() -> None:
    """Serve with LMDeploy, in its own environment (ftx env create lmdeploy) or its image.

    PATH is a model folder, a merged or full result, a run, or what ftx quantize wrote.
    """


@lmdeploy.command(epilog="Clients must send the key in FTX_API_KEY, where that variable is set.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=23333, show_default=True)
@click.option("--name", help="What clients call the model; default: the run's or folder's name.")
@click.option("--tp", type=click.IntRange(1), default=1, show_default=True, help="GPUs that share the model.")
@click.option(
    "--cache-share",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.8,
    show_default=True,
    help="Share of the GPU's free memory for keys and values.",
)
@click.option("--session-len", type=click.IntRange(1), help="Longest conversation in tokens.")
@click.option(
    "--quant-policy",
    type=click.Choice(["0", "4", "8"]),
    default="0",
    show_default=True,
    help="Bits of keys and values.",
)
@click.option("--print", "show", is_flag=True, help="Print the command and end.")
@click.option("--image", is_flag=True, help="Print the command that uses LMDeploy's container image, and end.")
@family_options
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def serve(
    registry: Registry,
    path: Path,
    host: str,
    port: int,
    name: str | None,
    tp: int,
    cache_share: float,
    session_len: int | None,
    quant_policy: str,
    show: bool,
    image: bool,
    family: str | None,
    settings: tuple[str, ...],
    json_lines: bool,
) -> None:
    """Serve the model in PATH with an OpenAI-compatible API, with the template it was trained on."""
    from ftx_lmdeploy import serve as server

    console = Console(json_lines=json_lines)
    what = server.served(path, registry, given_family(family, settings))
    how = server.Serving(host, port, name or model_name(path), tp, cache_share, session_len, None, int(quant_policy))
    if show or image:
        words = (
            server.image_command(what, how, registry)
            if image
            else shlex.join(["lmdeploy", *server.arguments(what, how)])
        )
        console.event({"event": "command", "command": words})
        if not json_lines:
            console.output(words)
        return

    def up(address: str) -> None:
        console.event({"event": "serving", "url": address, "model": how.model_name})
        console.say(f"{how.model_name} answers at {address}; Ctrl-C ends it")

    server.serve(what, how, registry, console.say, up)


@lmdeploy.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The JSON file.")
@family_options
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def template(
    registry: Registry, path: Path, out: Path, family: str | None, settings: tuple[str, ...], json_lines: bool
) -> None:
    """Write the model's template as LMDeploy's chat-template JSON, if that says the same."""
    from ftx.atomic import write_json
    from ftx.export.frames import frames_of
    from ftx.export.opened import open_whole
    from ftx_lmdeploy.template import chat_template

    whole = open_whole(path, registry, given_family(family, settings))
    frames = frames_of(whole.template, whole.tokenizer, whole.stop_ids)
    write_json(out, chat_template(frames, whole.template.name, bos=False))
    console = Console(json_lines=json_lines)
    console.event({"event": "written", "file": str(out)})
    console.say(f"LMDeploy's template in {out}; use it as: lmdeploy serve api_server MODEL --chat-template {out}")
