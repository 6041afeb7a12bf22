"""Training methods: full, LoRA, QLoRA."""

from __future__ import annotations

from collections.abc import Iterable

from ftx import TrainMethod, hookimpl


@hookimpl
def ftx_train_methods() -> Iterable[type[TrainMethod]]:
    from ftx_methods.full import Full
    from ftx_methods.lora import LoRA, QLoRA

    return [LoRA, QLoRA, Full]
