"""Causal language models that transformers has natively, with nothing of their own to know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ftx import ModelFamily, hookimpl


@hookimpl
def ftx_model_families() -> Iterable[type[ModelFamily]]:
    from ftx_transformers.family import Transformers

    return [Transformers]


@hookimpl(trylast=True)
def ftx_detect_family(config: Mapping[str, Any]) -> str | None:
    from ftx_transformers.family import is_native

    return "transformers" if is_native(config) else None
