"""The page: questions about the documents in this folder, answered by the model from what is found in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import gradio as gr
from documents import open_documents
from history import message_of
from launch import launch, on_gpu, opened, readable
from refused import CannotStart, Refused

SOURCES = "\n\n**Sources:** "
SETTINGS, MODEL = opened()
try:
    DOCUMENTS = open_documents(SETTINGS)
except CannotStart as error:
    sys.exit(f"app: {error}")


@on_gpu
def chat(message: str, history: list) -> Iterator[str]:
    """The answer as it grows, and where it is from. Each question stands alone: the documents are its context."""
    try:
        question = message_of("user", message)["content"]
        MODEL.check(question)
        prompt, files = DOCUMENTS.prompt(question)
        text = ""
        for text in MODEL.answer(MODEL.conversation(message_of("user", prompt), [])):
            yield text
        yield text + SOURCES + ", ".join(files)
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
