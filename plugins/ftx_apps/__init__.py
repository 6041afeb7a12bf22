"""The app templates that come with ftx: chats, pictures and documents, with Gradio or Streamlit."""

from __future__ import annotations

from collections.abc import Iterable

from ftx import AppTemplate, hookimpl


@hookimpl
def ftx_app_templates() -> Iterable[type[AppTemplate]]:
    from ftx_apps.templates import GradioChat, GradioRag, GradioVision, StreamlitChat

    return [GradioChat, GradioVision, GradioRag, StreamlitChat]
