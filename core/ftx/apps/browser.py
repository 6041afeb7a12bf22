"""An app as people see it: a question typed into its page in Chromium."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.errors import RecipeError

if TYPE_CHECKING:
    from ftx.apps.check import Compared

PATIENCE = 120_000  # milliseconds for an answer
INPUT = "textarea:visible"
ANSWER = '[data-testid="bot"], [data-testid="stChatMessage"]'
SIZE = {"width": 800, "height": 600}


def seen(url: str, asked: Compared, picture: Path | None) -> Compared:
    """Ask the same question on the page and wait for the same answer. Raises RecipeError without a browser."""
    from ftx.apps.check import Compared

    try:
        from playwright.sync_api import TimeoutError as Late
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise RecipeError("--browser: playwright is not installed; install it: pip install 'ftx[apps]'") from None
    with sync_playwright() as driver:
        browser = _chromium(driver)
        page = browser.new_page(viewport=SIZE)
        page.goto(url)
        page.locator(INPUT).first.fill(asked.question)
        page.keyboard.press("Enter")
        said = page.locator(ANSWER).filter(has_text=_squeezed(asked.expected)).last
        try:
            said.wait_for(timeout=PATIENCE)
            problem, answer = None, asked.expected
        except Late:
            answer = " / ".join(page.locator(ANSWER).all_inner_texts())
            problem = f"the page shows {answer!r}, not {asked.expected!r}"
        if picture is not None:
            page.screenshot(path=picture)
        browser.close()
    return Compared(asked.question, "browser", asked.expected, answer, problem)


def _squeezed(text: str) -> str:
    """The text as a page shows it: any white space is one space."""
    return " ".join(text.split())


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
