"""The page: a chat with the model in this folder."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
from history import message_of, messages_of
from launch import launch, on_gpu, opened, readable
from refused import Refused

SETTINGS, MODEL = opened()


@on_gpu
def chat(message: str, history: list) -> Iterator[str]:
    """The answer as it grows. Gradio closes this iterator on Stop and when the page goes away: the model stops too."""
    try:
        asked = message_of("user", message)
        MODEL.check(asked["content"])
        yield from MODEL.answer(MODEL.conversation(asked, messages_of(history)))
    except Refused as refused:
        raise gr.Error(str(refused)) from None
    # The last frame before the page: nobody there should read a stack trace.
    except Exception as error:
        raise readable(error) from None


page = gr.ChatInterface(
    chat,
    title=SETTINGS["title"],
    description="\n\n".join(text for text in (SETTINGS["description"], MODEL.note) if text),
    examples=SETTINGS["examples"] or None,
    cache_examples=False,
    concurrency_limit=1,
)

if __name__ == "__main__":
    launch(page, MODEL, SETTINGS)
