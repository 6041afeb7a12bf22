"""Publishing to ModelScope."""

from __future__ import annotations

from collections.abc import Iterable

from ftx import Publisher, hookimpl


@hookimpl
def ftx_publishers() -> Iterable[type[Publisher]]:
    from ftx_modelscope.publisher import ModelScope

    return [ModelScope]
