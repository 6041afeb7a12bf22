"""Publishing to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterable

from ftx import Publisher, hookimpl


@hookimpl
def ftx_publishers() -> Iterable[type[Publisher]]:
    from ftx_huggingface.publisher import HuggingFace

    return [HuggingFace]
