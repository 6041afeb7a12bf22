"""`ftx verify`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftx.cli.options import family_options, given_family
from ftx.console import Console
from ftx.plugins import Registry

if TYPE_CHECKING:
    from ftx.export.verify import Finding


@click.command(
    "verify",
    epilog="Example: ftx verify runs/cats http://127.0.0.1:8000/v1   A server's key is taken from FTX_API_KEY.",
)
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("others", nargs=-1, metavar="[FOLDER|ADDRESS]...")
@click.option("--base", type=click.Path(path_type=Path), help="The base of an adapter, when it has moved.")
@click.option("--probes", type=click.Path(path_type=Path), help="Questions of your own: a JSON object a line.")
@click.option("--rounded", is_flag=True, help="The servers named hold it in 4 or 8 bits: other words are told alone.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=48, show_default=True)
@family_options
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def verify(
    registry: Registry,
    path: Path,
    others: tuple[str, ...],
    base: Path | None,
    probes: Path | None,
    rounded: bool,
    max_new_tokens: int,
    family: str | None,
    settings: tuple[str, ...],
    json_lines: bool,
) -> None:
    """Ask all forms of the model in PATH the same and compare: prompts, logits, answers, how they end.

    PATH is a run, an artefact or a model's folder; compared are an adapter on its base, the merged model beside it, and
    what else is named: exported or quantised folders, addresses of servers. Exit code 7 when any differs.
    """
    from ftx.export.probes import read_probes
    from ftx.export.proof import verify as compare_forms
    from ftx.publish.credentials import token

    console = Console(json_lines=json_lines)
    findings = compare_forms(
        path,
        registry,
        base=base,
        others=others,
        options=given_family(family, settings),
        probes=read_probes(probes) if probes else None,
        key=os.environ.get("FTX_API_KEY") or token("FTX_API_KEY"),
        rounded=rounded,
        max_new_tokens=max_new_tokens,
    )
    show_findings(findings, console)


def show_findings(findings: list[Finding], console: Console) -> None:
    """Tell what was found. Raises VerificationError when a form differs."""
    from ftx.errors import VerificationError

    for finding in findings:
        console.event({"event": "verified", **finding.as_dict()})
    if problems := [f"{finding.form}: {problem}" for finding in findings for problem in finding.problems]:
        raise VerificationError(*problems)
