"""Training methods: full, LoRA, QLoRA."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ftx import TrainMethod, hookimpl

if TYPE_CHECKING:
    from ftx.plan import Plan


@hookimpl
def ftx_train_methods() -> Iterable[type[TrainMethod]]:
    from ftx_methods.full import Full
    from ftx_methods.lora import LoRA, QLoRA
    from ftx_methods.projector import Projector

    return [LoRA, QLoRA, Full, Projector]


@hookimpl
def ftx_check_plan(plan: Plan) -> Iterable[str]:
    from ftx_methods.lora import LoRA, QLoRA, bits_problems, target_problems, turned_problems
    from ftx_methods.parts import part_problems
    from ftx_methods.projector import Projector, projector_problems

    yield from part_problems(plan.method, plan.family)
    if isinstance(plan.method, LoRA):
        yield from target_problems(plan.method, plan.family, plan.base)
    if isinstance(plan.method, QLoRA):
        yield from bits_problems(plan.method, plan.family, plan.base)
        yield from turned_problems(plan.facts)
    if isinstance(plan.method, Projector):
        yield from projector_problems(plan.family)
