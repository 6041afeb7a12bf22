"""LMDeploy in an environment of its own: serving, and quantisation to AWQ."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ftx import hookimpl

if TYPE_CHECKING:
    from ftx.cli.group import CommandGroup
    from ftx.environments import Environment

NAME = "lmdeploy"
LOCK = Path(__file__).with_name("lmdeploy.lock")


@hookimpl
def ftx_add_commands(group: CommandGroup) -> None:
    group.add_lazy("lmdeploy", "ftx_lmdeploy.command:lmdeploy", "Serve with LMDeploy.")
    group.add_lazy("quantize", "ftx_lmdeploy.quantize_command:quantize", "Write a whole model in 4 bits, for LMDeploy.")


@hookimpl
def ftx_environments() -> Iterable[Environment]:
    from ftx.environments import Environment

    return [
        Environment(
            name=NAME,
            pythons=("3.11", "3.12", "3.10", "3.13"),
            requirements=LOCK,
            module="lmdeploy",
            packages=("lmdeploy", "torch", "transformers", "triton"),
            image="openmmlab/lmdeploy:v0.18.0-cu12",
            target="serve",
            commands=("lmdeploy serve", "quantize"),
        )
    ]
