"""Where rows come from, and the formats they come in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ftx import DataFormat, DataSource, hookimpl

if TYPE_CHECKING:
    from ftx.environments import Environment


@hookimpl
def ftx_data_sources() -> Iterable[type[DataSource]]:
    from ftx_sources.files import Files
    from ftx_sources.huggingface import HuggingFace
    from ftx_sources.modelscope import ModelScope
    from ftx_sources.openxlab import OpenXLab
    from ftx_sources.openxlab_client import OpenXLabClient

    return [Files, HuggingFace, ModelScope, OpenXLab, OpenXLabClient]


@hookimpl
def ftx_model_folder(hub: str, repo: str, revision: str | None) -> Path | None:
    from ftx_sources.models import HuggingFaceModel

    return HuggingFaceModel(repo=repo, revision=revision).folder() if hub == "huggingface" else None


@hookimpl
def ftx_data_formats() -> Iterable[type[DataFormat]]:
    from ftx_sources import formats
    from ftx_sources.moss import Moss
    from ftx_sources.oasst import OasstTree
    from ftx_sources.xtuner_rows import REPLAYS

    return [
        formats.Preference,
        formats.Messages,
        formats.XTunerConversation,
        formats.Llava,
        formats.ShareGPT,
        Moss,
        OasstTree,
        formats.Alpaca,
        formats.InputOutput,
        formats.PromptCompletion,
        formats.PromptResponse,
        formats.QuestionAnswer,
        *REPLAYS.values(),
        formats.Text,
    ]


@hookimpl
def ftx_environments() -> Iterable[Environment]:
    """OpenXLab's own client, whose pins fit no other package's: it does what git cannot."""
    from ftx.environments import Environment

    return [
        Environment(
            name="openxlab",
            pythons=("3.11", "3.12", "3.10", "3.13"),
            requirements=Path(__file__).with_name("openxlab.lock"),
            module="openxlab",
            packages=("openxlab",),
            program=Path(__file__).with_name("openxlab_program.py"),
        )
    ]
