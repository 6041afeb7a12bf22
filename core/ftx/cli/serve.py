"""`ftx serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ftx.artifact import model_name
from ftx.cli.options import family_options, given_family
from ftx.console import Console
from ftx.errors import RecipeError
from ftx.plugins import Registry

ADDRESS = ("host", "port")
OF_OURS = (
    *("base", "template", "other_template", "api_key_file"),
    *("max_new_tokens", "max_queue", "max_body", "grace"),
)


@click.command(epilog="Example: ftx serve runs/cats/merged --port 8000; ends at Ctrl-C.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; 0.0.0.0 lets other machines in.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option("--name", help="What clients call the model; default: the run's or folder's name.")
@click.option("--base", type=click.Path(path_type=Path), help="The base of an adapter, when it has moved.")
@click.option("--template", default="auto", help="Template; default: the one the model was trained with.")
@click.option("--other-template", is_flag=True, help="Allow a template that the model was not trained with.")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    help="File with the key that clients must send; else the environment's FTX_API_KEY.",
)
@click.option(
    "--max-new-tokens", type=click.IntRange(1), default=1024, show_default=True, help="Longest answer in tokens."
)
@click.option("--max-queue", type=click.IntRange(0), default=64, show_default=True, help="Questions that may wait.")
@click.option("--max-body", type=click.IntRange(1), default=32, show_default=True, help="Largest request in MiB.")
@click.option(
    "--grace", type=click.IntRange(0), default=30, show_default=True, help="Seconds for running answers at the end."
)
@click.option(
    "--print",
    "printed",
    type=click.Choice(["vllm", "dockerfile"]),
    help="Print vLLM's command, or a Dockerfile with it, instead of serving.",
)
@click.option("--out", type=click.Path(path_type=Path), help="With --print: a file to write instead of stdout.")
@family_options
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def serve(
    registry: Registry,
    /,
    path: Path,
    printed: str | None,
    out: Path | None,
    json_lines: bool,
    **given: Any,
) -> None:
    """Answer OpenAI's chat completions with the model in PATH: a model folder, a run, an adapter or a merged model."""
    if out is not None and not printed:
        raise RecipeError("--out goes with --print vllm or --print dockerfile")
    if printed:
        _refuse_unused(printed)
    console = Console(json_lines=json_lines)
    if printed:
        _print(path, printed, out, given, registry, console)
    else:
        _serve(path, given, registry, console)


def _refuse_unused(printed: str) -> None:
    """Raise RecipeError for an option that says nothing to what is printed."""
    context = click.get_current_context()
    for name in (*OF_OURS, *(ADDRESS if printed == "dockerfile" else ())):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = "--" + name.replace("_", "-")
            raise RecipeError(f"{flag} does not go with --print {printed}: {_instead(name)}")


def _instead(name: str) -> str:
    if name in ADDRESS:
        return "the image answers on all its addresses at port 8000; choose another when it is run (docker run -p)"
    if name == "api_key_file":
        return "vLLM reads its key from the environment's VLLM_API_KEY"
    if name in ("base", "template", "other_template"):
        return "vLLM serves a whole model with the template that lies in its folder; leave it out"
    return "it is an option of ftx's own server; leave it out"


def _serve(path: Path, given: dict[str, Any], registry: Registry, console: Console) -> None:
    from ftx.serve.checks import api_key, open_port, refuse_endless, refuse_without_packages

    refuse_without_packages()
    key = api_key(given["api_key_file"])
    name = given["name"] or model_name(path)
    with open_port(given["host"], given["port"]) as opened:
        from ftx.serve.app import Limits
        from ftx.serve.run import Settings, serve
        from ftx.talk import open_talk

        options = given_family(given["family"], given["settings"])
        chosen = {key: given[key] for key in ("base", "template", "other_template")}
        talk = open_talk(path, registry, options=options, **chosen)
        refuse_endless(talk, path)
        limits = Limits(key, given["max_body"] << 20)
        settings = Settings(name, limits, given["max_new_tokens"], given["max_queue"], given["grace"])
        host, port = opened.getsockname()[:2]
        url = f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"

        def started(_: object) -> None:
            console.event({"event": "serving", "url": url, "model": name, "key": key is not None})
            console.say(f"{name} answers at {url} on {talk.model.device}; Ctrl-C ends it")
            if key is None and not _is_loopback(host):
                console.warn("anybody who reaches this address may ask; set FTX_API_KEY or give --api-key-file")

        serve(talk, opened, settings, started)
        console.event({"event": "ended"})


def _is_loopback(host: str) -> bool:
    import ipaddress

    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _print(
    path: Path, printed: str, out: Path | None, given: dict[str, Any], registry: Registry, console: Console
) -> None:
    from ftx.atomic import write_text
    from ftx.serve.vllm import command, dockerfile, servable

    model = servable(
        path, given_family(given["family"], given["settings"]), registry, given["name"] or model_name(path)
    )
    text = dockerfile(model) if printed == "dockerfile" else command(model, given["host"], given["port"])
    if out is not None:
        write_text(out, text)
        console.event({"event": "written", "file": str(out)})
        console.say(f"written to {out}")
    elif console.json_lines:
        console.event({"event": "printed", "text": text})
    else:
        console.output(text, end="")
