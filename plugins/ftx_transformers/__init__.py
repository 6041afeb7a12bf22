"""Models that transformers has natively, with nothing of their own to know: language models, and such that see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ftx import ModelFamily, hookimpl


@hookimpl
def ftx_model_families() -> Iterable[type[ModelFamily]]:
    from ftx_transformers.family import Transformers
    from ftx_transformers.seeing import TransformersVision

    return [Transformers, TransformersVision]


@hookimpl(trylast=True)
def ftx_detect_family(config: Mapping[str, Any]) -> str | None:
    from ftx_transformers.family import is_native
    from ftx_transformers.seeing import sees

    if sees(config):
        return "transformers_vision"
    return "transformers" if is_native(config) else None
