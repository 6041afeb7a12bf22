"""`ftx size`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftx.console import Console

if TYPE_CHECKING:
    from ftx.publish.hardware import Lent
    from ftx.publish.sizing import Demand


@click.command(epilog="Example: ftx size runs/cats/merged --hub huggingface --hardware t4-small")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--hub", help="One hub's machines; default: all that run apps.")
@click.option("--hardware", metavar="MACHINE", help="With --hub: exit code 4 when an app cannot start on it.")
@click.option("--context", type=click.IntRange(1), help="Tokens of a conversation; default: the model's longest.")
@click.option("--concurrency", type=click.IntRange(1), default=1, show_default=True, help="Conversations at once.")
@click.option("--estimate", is_flag=True, help="Do not load the model; work it out from its files.")
@click.option("--base", type=click.Path(path_type=Path), help="The base of an adapter, when it has moved.")
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
def size(
    path: Path,
    hub: str | None,
    hardware: str | None,
    context: int | None,
    concurrency: int,
    estimate: bool,
    base: Path | None,
    json_lines: bool,
) -> None:
    """Say how much memory an app of the model in PATH needs, and on which of the hubs' machines it starts.

    The model is loaded once in a process of its own, as an app does on a processor, and what that held is measured;
    what it takes on a GPU is an estimate.
    """
    from ftx.errors import RecipeError
    from ftx.publish.footprint import estimated, footprint, weighed
    from ftx.publish.hardware import hardware as table
    from ftx.publish.hardware import lent_by
    from ftx.publish.sizing import Demand

    if hardware and not hub:
        raise RecipeError("--hardware goes with --hub: say whose machine it is, as --hub huggingface")
    lent = [lent_by(hub)] if hub else list(table().values())
    tier = lent[0].tier(hardware) if hardware else None
    console = Console(json_lines=json_lines)
    what = weighed(path, base)
    demand = Demand.of(estimated(what.model) if estimate else footprint(what), context, concurrency)
    console.event({"event": "size", **demand.as_event(lent)})
    if not json_lines:
        _show(console, demand, lent)
    if tier:
        demand.refuse(lent[0], tier)


def _show(console: Console, demand: Demand, lent: list[Lent]) -> None:
    rows = []
    for one in lent:
        for tier in one.tiers:
            way = demand.way(tier)
            told = "does not start" if way is None else f"on the {way}"
            if way and not demand.room(tier):
                told += ", too small for the longest conversations"
            gpu = f"{tier.gpu}, {tier.vram:g}" if tier.vram else ""
            ram = "not told" if tier.ram is None else f"{tier.ram:g}"
            rows.append((one.hub, tier.name, ram, gpu, tier.price, told))
    dates = ", ".join(f"{one.hub}'s of {one.read}" for one in lent)
    console.table(f"machines ({dates})", ("hub", "--hardware", "GB", "GPU, GB", "price", ""), rows)
    console.say(demand.sentence(lent))
