"""Publishing to OpenXLab, by its git host."""

from __future__ import annotations

from collections.abc import Iterable

from ftx import Publisher, hookimpl


@hookimpl
def ftx_publishers() -> Iterable[type[Publisher]]:
    from ftx_openxlab.publisher import OpenXLab

    return [OpenXLab]
