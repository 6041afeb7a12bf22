"""`ftx quantize`."""

from __future__ import annotations

from pathlib import Path

import click

from ftx.cli.options import family_options, given_family
from ftx.console import Console
from ftx.plugins import Registry


@click.command(epilog="Then: ftx lmdeploy serve OUT")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the result.")
@click.option("--method", type=click.Choice(["awq"]), default="awq", show_default=True)
@click.option("--bits", type=click.Choice(["4"]), default="4", show_default=True)
@click.option(
    "--group-size", type=click.IntRange(1), default=128, show_default=True, help="Weights that share a scale."
)
@click.option("--data", multiple=True, metavar="FILE", help="Calibration rows; default: the data of the training.")
@click.option("--samples", type=click.IntRange(1), default=128, show_default=True, help="Calibration rows at most.")
@click.option("--length", type=click.IntRange(16), default=2048, show_default=True, help="Tokens of each at most.")
@click.option("--search-scale", is_flag=True, help="Search the best scales: slower, closer.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@family_options
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def quantize(
    registry: Registry,
    path: Path,
    out: Path,
    method: str,
    bits: str,
    group_size: int,
    data: tuple[str, ...],
    samples: int,
    length: int,
    search_scale: bool,
    device: str,
    family: str | None,
    settings: tuple[str, ...],
    json_lines: bool,
) -> None:
    """Write the whole text model in PATH with weights of 4 bits (W4A16), calibrated on the data it was trained on."""
    from ftx.export.opened import open_whole
    from ftx_lmdeploy import quantize as awq

    console = Console(json_lines=json_lines)
    whole = open_whole(path, registry, given_family(family, settings))
    how = awq.Quantizing(
        int(bits), group_size, samples, length, device, "float16" if device == "cpu" else "auto", search_scale
    )
    rows = awq.quantize(whole, awq.sets_of(whole, data, registry), out, how, registry, console.say)
    console.event({"event": "quantized", "folder": str(out), "method": method, "bits": int(bits), "rows": rows})
    console.say(f"{bits}-bit weights in {out}, calibrated on {rows} rows; to serve them: ftx lmdeploy serve {out}")
