"""Reading fields of rows that may hold anything."""

from __future__ import annotations

import json
from typing import Any

from ftx import RowError


def text(row: Any, key: str) -> str:
    """A text field. Raises RowError when it is absent or of another type."""
    if not isinstance(row, dict):
        raise RowError(f"expected an object, found {type(row).__name__}", "make every row a JSON object")
    value = row.get(key)
    if value is None:
        raise RowError(f"'{key}' is missing", f"add '{key}'")
    if not isinstance(value, str):
        raise RowError(f"'{key}' is {type(value).__name__}, not text", f"write '{key}' as text")
    return value


def joined(row: Any, first: str, second: str) -> str:
    """Two text fields with a line break between them."""
    return f"{text(row, first)}\n{text(row, second)}"


def items(row: Any, key: str) -> list[Any]:
    """A list field; a table cell can hold one only as JSON text. Raises RowError."""
    value = row.get(key) if isinstance(row, dict) else None
    if isinstance(value, str):
        value = parsed(value, key)
    if not isinstance(value, list):
        raise RowError(f"'{key}' is no list", f"write '{key}' as a list of turns")
    return value


def parsed(value: str, key: str) -> Any:
    """A cell's JSON text as a value. Raises RowError."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RowError(f"'{key}' is text that is no JSON list", f"write '{key}' as a list") from None


def flag(row: Any, key: str, default: bool = True) -> bool:
    """A field that is true or false. Raises RowError."""
    value = row.get(key, default)
    if not isinstance(value, bool):
        shown = type(value).__name__ if isinstance(value, dict | list) else f"{value!r:.40}"
        raise RowError(f"'{key}' is {shown}, not true or false", "write it as a JSON boolean")
    return value


def has(value: Any, *keys: str) -> str | None:
    """The evidence that `value` has all of `keys`, or None."""
    if isinstance(value, dict) and all(key in value for key in keys):
        return "has " + " and ".join(f"'{key}'" for key in keys)
    return None
