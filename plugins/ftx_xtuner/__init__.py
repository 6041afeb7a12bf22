"""What XTuner 0.1 trained, taken over: its checkpoints and adapters read as data, merged as it merges them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftx import hookimpl

if TYPE_CHECKING:
    from ftx.cli.group import CommandGroup


@hookimpl
def ftx_add_commands(group: CommandGroup) -> None:
    group.add_lazy("xtuner", "ftx_xtuner.command:xtuner", "Take over what XTuner trained.")
