"""What XTuner 0.1 trained, taken over: its checkpoints and adapters read as data, merged as it merges them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ftx import hookimpl

if TYPE_CHECKING:
    from ftx.cli.group import CommandGroup
    from ftx.environments import Environment


@hookimpl
def ftx_add_commands(group: CommandGroup) -> None:
    group.add_lazy("xtuner", "ftx_xtuner.command:xtuner", "Take over what XTuner trained or was to train, or run it.")


@hookimpl
def ftx_environments() -> Iterable[Environment]:
    """XTuner's own engine, for those who compare with it."""
    from ftx.environments import Environment
    from ftx_xtuner.engine import IMAGE, NAME

    return [
        Environment(
            name=NAME,
            pythons=("3.10",),
            requirements=Path(__file__).with_name("xtuner.lock"),
            module="xtuner",
            packages=("xtuner", "torch", "transformers", "mmengine"),
            image=IMAGE,
        )
    ]
