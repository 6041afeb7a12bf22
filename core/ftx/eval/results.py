"""Writes what an evaluation saw, and tells it."""

from __future__ import annotations

from pathlib import Path

from ftx.atomic import whole_folder, write_json, write_text
from ftx.console import Console
from ftx.eval.evaluate import Evaluation
from ftx.eval.show import columns_told, page_of, terminal_rows

PAGE, RESULTS = "page.html", "eval.json"


def write_results(seen: Evaluation, folder: Path) -> None:
    """The page and eval.json, both or none. Raises StorageError."""
    with whole_folder(folder) as made:
        write_json(made / RESULTS, seen.as_dict())
        write_text(made / PAGE, page_of(seen))


def tell_results(seen: Evaluation, folder: Path, console: Console) -> None:
    """The table on the screen, or one line of JSON."""
    console.event(
        {
            "event": "evaluated",
            "columns": columns_told(seen.columns),
            "differing": list(seen.different),
            "page": str(folder / PAGE),
            "results": str(folder / RESULTS),
        }
    )
    heads, rows = terminal_rows(seen)
    if rows:
        console.table("before and after", heads, rows)
    console.say(f"all answers, curves and settings: {folder / PAGE}; the same for programs: {folder / RESULTS}")
