"""`ftx merge`."""

from __future__ import annotations

from pathlib import Path

import click

from ftx.cli.options import family_options, given_family
from ftx.console import Console
from ftx.plugins import Registry


@click.command("merge")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--base", type=click.Path(path_type=Path), help="The base model, when it has moved.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the result; default: merged/ of the run.")
@click.option(
    "--into",
    type=click.Choice(["trained", "stored"]),
    default="trained",
    show_default=True,
    help="The base of a QLoRA adapter: dequantised, as training saw it, or as it is stored.",
)
@family_options
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def merge(
    registry: Registry,
    path: Path,
    base: Path | None,
    out: Path | None,
    into: str,
    family: str | None,
    settings: tuple[str, ...],
    json_lines: bool,
) -> None:
    """Merge the adapter of run or artefact PATH into its base, in the base's own layout and dtype."""
    from ftx.artifact import Artifact, family_of
    from ftx.errors import ModelError
    from ftx.export.merge import merge as merge_adapter
    from ftx.export.quantised import method_of, quantization_of
    from ftx.plan import find_family

    adapter = path / "adapter" if (path / "adapter").is_dir() else path
    artifact = Artifact.find(adapter)
    if artifact is None:
        raise ModelError(f"{path} holds no finished run and no artefact of ftx")
    base = base or artifact.base
    if not base.is_dir():
        raise ModelError(f"the base model {base} is not there; give --base FOLDER")
    model = find_family({**family_of(artifact), **given_family(family, settings)}, base, registry)
    quantization = quantization_of(method_of(artifact, registry), model) if into == "trained" else None
    target = out or artifact.folder.parent / "merged"
    merge_adapter(artifact, model, base, target, Console(json_lines=json_lines), quantization)
