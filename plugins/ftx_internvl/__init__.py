"""InternVL2 on transformers' own InternVL: no remote code, the official layout in and out, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ftx import ModelFamily, hookimpl


@hookimpl
def ftx_model_families() -> Iterable[type[ModelFamily]]:
    from ftx_internvl.family import InternVL

    return [InternVL]


@hookimpl
def ftx_detect_family(config: Mapping[str, Any]) -> str | None:
    return "internvl" if config.get("model_type") == "internvl_chat" else None
