"""Secrets that this process knows, taken out of whatever it prints, logs or fails with: `scrub` is the one way."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

SECRET_VARIABLE = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|(?:API|ACCESS|SECRET|PRIVATE|SIGNING|ENCRYPTION)_?KEY|_AK|_SK)$"
)
SHORTEST_SECRET = 8  # characters; shorter values of variables would be found anywhere
HIDDEN = "***"
IN_ADDRESS = re.compile(r"^(?:[\w+.-]+://)?[^/@\s:]*:([^/@\s]+)@")  # the password of a proxy's or a mirror's address

_remembered: set[str] = set()


def remember(secret: str) -> None:
    """Keep `secret` out of all that is printed from now on; a shorter one would be found anywhere."""
    if len(secret) >= SHORTEST_SECRET:
        _remembered.add(secret)


def forget_all() -> None:
    """For tests, whose secrets are none of the next one's."""
    _remembered.clear()


def scrub(text: str, secret: str | None = None) -> str:
    """`text` without `secret`, without any that was remembered, and without those of the environment.

    Their JSON, percent and base64 forms go too: a head of HTTP holds a password in base64.
    """
    return _without(_secrets(secret), text)


def _secrets(*more: str | None) -> list[str]:
    """All that are known, the longest first."""
    return sorted({*filter(None, (*_remembered, *_of_environment(), *more))}, key=len, reverse=True)


def _without(secrets: list[str], text: str) -> str:
    for one in secrets:
        for form in _forms(one):
            if form in text:
                text = text.replace(form, HIDDEN)
    return text


def scrub_within(value: Any) -> Any:
    """A JSON value with every text in it scrubbed, the names of fields left as they are."""
    secrets = _secrets()

    def clean(one: Any) -> Any:
        if isinstance(one, str):
            return _without(secrets, one)
        if isinstance(one, Mapping):
            return {key: clean(inner) for key, inner in one.items()}
        if isinstance(one, list | tuple):
            return [clean(inner) for inner in one]
        return one

    return clean(value)


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if len(value) >= SHORTEST_SECRET and SECRET_VARIABLE.search(name.upper()):
            yield value.strip()
        elif "@" in value and (found := IN_ADDRESS.search(value)) and len(found[1]) >= SHORTEST_SECRET:
            yield found[1]
            yield unquote(found[1])


@lru_cache(maxsize=256)
def _forms(secret: str) -> tuple[str, ...]:
    """How a secret may be written, itself first; in base64 by its place among the bytes around it."""
    found = [secret, json.dumps(secret)[1:-1], quote(secret, safe="")]
    raw = secret.encode("utf-8", "surrogatepass")
    if len(raw) >= SHORTEST_SECRET:
        for before in range(3):
            whole = base64.b64encode(b"\0" * before + raw).decode()
            after = (before + len(raw)) % 3
            # Only the signs that no neighbour has a part in.
            found.append(whole[(0, 2, 3)[before] : len(whole) - (0, 3, 2)[after]])
    return tuple(dict.fromkeys(found))


def guard() -> None:
    """Scrub every log record, warning and traceback of this process from now on."""
    logging.setLogRecordFactory(_record)
    sys.excepthook = _show_bug
    threading.excepthook = _show_bug_of_thread
    warnings.formatwarning = _warning


def _record(*arguments: Any, **named: Any) -> logging.LogRecord:
    record = logging.LogRecord(*arguments, **named)
    try:
        said = record.getMessage()
    except (TypeError, ValueError, KeyError):  # of a wrong format, which the handler tells of
        return record
    if (clean := scrub(said)) != said:
        record.msg, record.args = clean, None
    if record.exc_info and record.exc_info[1] is not None:
        told = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        if (clean := scrub(told)) != told:
            record.exc_info, record.exc_text = None, clean
    return record


def _show_bug(kind: type[BaseException], error: BaseException, place: TracebackType | None) -> None:
    sys.stderr.write(scrub("".join(traceback.format_exception(kind, error, place))))


def _show_bug_of_thread(about: threading.ExceptHookArgs) -> None:
    if about.exc_type is not SystemExit and about.exc_value is not None:
        _show_bug(about.exc_type, about.exc_value, about.exc_traceback)


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return scrub(f"{filename}:{lineno}: {category.__name__}: {message}\n")
