"""LLaVA on transformers' own classes: XTuner's, Hugging Face's and haotian-liu's layouts, read and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ftx import ModelFamily, hookimpl


@hookimpl
def ftx_model_families() -> Iterable[type[ModelFamily]]:
    from ftx_llava.family import LLaVA

    return [LLaVA]


@hookimpl
def ftx_detect_family(config: Mapping[str, Any]) -> str | None:
    return "llava" if config.get("model_type") in ("llava", "llava_llama") else None
