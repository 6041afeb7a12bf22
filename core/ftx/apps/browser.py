"""An app as people see it: a question typed into its page in Chromium."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.apps.serve import STARTS
from ftx.errors import RecipeError

if TYPE_CHECKING:
    from ftx.apps.check import Compared

PATIENCE = 120.0  # seconds for an answer
LOOK = 500  # milliseconds between two looks at it
INPUT = "textarea:visible"
ANSWER = (
    '[data-testid="bot"], [data-testid="stChatMessage"]:has([data-testid="stChatMessageAvatarAssistant"]) '
    '[data-testid="stChatMessageContent"]'
)
BUSY = 'button.stop-button:visible, [data-test-script-state="running"]'  # Gradio's and Streamlit's
SOURCES = "Sources:"  # after it an answer names its documents
SIZE = {"width": 800, "height": 600}
# What a page shows of Markdown and HTML otherwise than it is written, and all but letters and digits.
UNSEEN = re.compile(r"^\s*(?:\d+[.)]\s|`{3,}.*$)|\]\([^)]*\)|</?\w[^>]*>|[\W_]", re.MULTILINE)


def seen(url: str, question: str, expected: str, picture: Path | None) -> Compared:
    """Ask the question on the page and compare the whole answer. Raises RecipeError without a browser."""
    from ftx.apps.check import Compared

    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise RecipeError("--browser: playwright is not installed; install it: pip install 'ftx[apps]'") from None
    with sync_playwright() as driver:
        browser = _chromium(driver)
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(STARTS * 1000)  # a page may load the model
        try:
            answer, ended = _answer(page, url, question)
            problem = _problem(answer, expected, ended)
            if picture is not None:
                page.screenshot(path=picture)
        except Error as error:
            answer, problem = "", f"the page does not work: {str(error).splitlines()[0]}"
        browser.close()
    return Compared(question, "browser", expected, answer, problem)


def _answer(page: Any, url: str, question: str) -> tuple[str, bool]:
    """What the page shows as its answer, and whether that has come to its end. Raises playwright's Error."""
    page.goto(url)
    page.locator(INPUT).first.fill(question)
    page.keyboard.press("Enter")
    text, before = "", None
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        page.wait_for_timeout(LOOK)
        text = "\n".join(page.locator(ANSWER).all_inner_texts()[-1:])
        if text and text == before and not page.locator(BUSY).count():
            return text, True
        before = text
    return text, False


def _problem(answer: str, expected: str, ended: bool) -> str | None:
    if not ended:
        return f"the page shows {answer!r} and no end of it after {PATIENCE:.0f} s, not {expected!r}"
    if _rendered(answer) != _rendered(expected):
        return f"the page shows {answer!r}, not {expected!r}"
    return None


def _rendered(text: str) -> str:
    """What is alike in an answer and in what a page makes of it."""
    return UNSEEN.sub("", text.partition(SOURCES)[0])


def _chromium(driver: Any) -> Any:
    from playwright.sync_api import Error

    path = os.environ.get("FTX_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        # Chromium's own sandbox refuses to start for root, as in containers.
        return driver.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
    except Error as error:
        raise RecipeError(
            f"--browser: no Chromium starts ({str(error).splitlines()[0]}); install one, or name it with FTX_CHROMIUM"
        ) from None
