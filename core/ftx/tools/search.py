"""A search of the web that a model asks for, by Serper, as XTuner's chat had it: only with the user's own key."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from ftx.errors import RecipeError
from ftx.publish.credentials import token
from ftx.tools.calculate import NoResult

KEY = "SERPER_API_KEY"
ADDRESS = "https://google.serper.dev/search"
SHOWN = 3  # results
LONGEST = 300  # characters of a question
SECONDS = 20


def refuse_without_key() -> None:
    """Raises RecipeError when there is no key to search with."""
    if not token(KEY):
        raise RecipeError(f"--tools search: a search needs a key of serper.dev; set {KEY}, or leave search out")


def search(question: str) -> str:
    """The first results, one a line. Raises NoResult."""
    body = json.dumps({"q": question[:LONGEST]}).encode()
    headers = {"X-API-KEY": token(KEY) or "", "Content-Type": "application/json"}
    request = urllib.request.Request(ADDRESS, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            found = json.load(answer)["organic"]
            return "\n".join(
                f"<|{i}|>: {one['title']}: {one.get('snippet', '')}" for i, one in enumerate(found[:SHOWN])
            )
    except urllib.error.HTTPError as error:
        raise NoResult(f"the search was refused with status {error.code}") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise NoResult("the search did not answer") from None
