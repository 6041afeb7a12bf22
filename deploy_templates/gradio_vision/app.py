"""The page: a chat about pictures with the model in this folder."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
from history import message_of, messages_of
from launch import launch, on_gpu, opened, readable
from refused import Refused

SETTINGS, MODEL = opened()


@on_gpu
def chat(message: dict, history: list) -> Iterator[str]:
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


textbox = gr.MultimodalTextbox(file_types=["image"], file_count="multiple")
textbox.stop_btn = True  # a textbox of one's own comes without; Gradio 4 knows it by another name

page = gr.ChatInterface(
    chat,
    multimodal=True,
    textbox=textbox,
    title=SETTINGS["title"],
    description="\n\n".join(text for text in (SETTINGS["description"], MODEL.note) if text),
    concurrency_limit=1,
)

if __name__ == "__main__":
    launch(page, MODEL, SETTINGS)
