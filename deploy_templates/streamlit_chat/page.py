"""The page: a chat with the model in this folder. app.py starts it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

sys.path.insert(0, str(Path(__file__).resolve().parent))

from history import message_of, messages_of
from model import Model, open_model
from refused import CannotStart, Refused
from settings import read_settings


@contextmanager
def in_sentences() -> Iterator[None]:
    """What goes wrong in the block is said on the page, and ends the script."""
    try:
        yield
        return
    except (CannotStart, Refused) as error:
        st.error(str(error))
    # The last frame before the page: nobody there should read a stack trace.
    except Exception as error:
        logging.getLogger("app").error("unexpected", exc_info=error)
        st.error("Something went wrong; the app's log has the reason. Please try again.")
    st.stop()


with in_sentences():
    SETTINGS = read_settings()
st.set_page_config(page_title=SETTINGS["title"])


@st.cache_resource(show_spinner="The model is loading ...")
def model() -> Model:
    return open_model(SETTINGS)


def here() -> bool:
    """Whether somebody still looks at the page."""
    from streamlit.runtime import exists, get_instance
    from streamlit.runtime.scriptrunner import get_script_run_ctx

    context = get_script_run_ctx()
    return context is None or not exists() or get_instance().is_active_session(context.session_id)


def kept(question: str, answers: Iterator[str]) -> Iterator[str]:
    """What comes new with each answer so far. All of it is kept, also when Stop ends this script in the middle."""
    shown, note = "", st.empty()
    history = st.session_state.history
    history += [{"role": "user", "content": question}, {"role": "assistant", "content": ""}]
    for text in answers:
        if not here():
            answers.close()
            return
        if not text:
            note.caption("Others asked before you; your answer comes after theirs.")
            continue
        note.empty()
        history[-1]["content"] = text
        yield text[len(shown) :]
        shown = text
    note.empty()


def answer(question: str) -> None:
    before = messages_of(st.session_state.history)
    with in_sentences():
        loaded = model()
        loaded.check(question)
        asked = loaded.conversation(message_of("user", question), before)
        st.write_stream(kept(question, loaded.answer(asked)))


def clear() -> None:
    st.session_state.history = []


st.title(SETTINGS["title"])
if SETTINGS["description"]:
    st.markdown(SETTINGS["description"])
with in_sentences():
    if model().note:
        st.info(model().note)
if "history" not in st.session_state:
    clear()
for turn in st.session_state.history:
    with st.chat_message(turn["role"]):
        st.text(turn["content"])
question = st.chat_input("Ask a question")
left, right = st.columns(2)
left.button("Clear", on_click=clear, width="stretch")
right.button("Stop", width="stretch")  # any click ends the running script, and the model with it
if question:
    with st.chat_message("user"):
        st.text(question)
    with st.chat_message("assistant"):
        answer(question)
