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
    from ftx_methods.lora import LoRA, target_problems
    from ftx_methods.projector import Projector, projector_problems

    if isinstance(plan.method, LoRA):
        return target_problems(plan.method, plan.family, plan.base)
    return projector_problems(plan.method, plan.family) if isinstance(plan.method, Projector) else ()
