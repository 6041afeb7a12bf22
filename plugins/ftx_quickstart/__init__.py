"""The embedded tiny base, the corpus it learnt from, and the first run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftx import hookimpl

if TYPE_CHECKING:
    from ftx.cli.group import CommandGroup


@hookimpl
def ftx_add_commands(group: CommandGroup) -> None:
    group.add_lazy("quickstart", "ftx_quickstart.command:quickstart", "Tune an embedded tiny model, start to end.")
