"""InternLM2 on transformers' own Llama: no remote code, the official layout in and out, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ftx import ModelFamily, hookimpl


@hookimpl
def ftx_model_families() -> Iterable[type[ModelFamily]]:
    from ftx_internlm2.family import InternLM2

    return [InternLM2]


@hookimpl
def ftx_detect_family(config: Mapping[str, Any]) -> str | None:
    return "internlm2" if config.get("model_type") == "internlm2" else None
