"""A conversation kept as a row that ftx trains on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.atomic import write_text
from ftx.data.conversation import IMAGE
from ftx.errors import RecipeError, StorageError

if TYPE_CHECKING:
    from ftx.talk import Talk

TAG = "<image>"


def save_conversation(talk: Talk, path: Path) -> int:
    """Add the whole conversation to the .jsonl file at `path`, in OpenAI's form; the number of its rows then.

    The file is written anew and whole. Raises RecipeError when nothing was said yet, StorageError.
    """
    if not talk.history:
        raise RecipeError("/save: nothing was said yet; ask first")
    if path.suffix != ".jsonl":
        raise RecipeError(f"/save {path}: name a .jsonl file, so that it can be trained on")
    try:
        before = path.read_text("utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError):
        raise RecipeError(f"/save {path}: that is no file of rows; name another") from None
    if not path.parent.is_dir():
        raise StorageError(f"/save {path}: there is no folder {path.parent}; make it first")
    if before and not before.endswith("\n"):
        before += "\n"
    write_text(path, before + json.dumps(row_of(talk), ensure_ascii=False) + "\n")
    return before.count("\n") + 1


def row_of(talk: Talk) -> dict[str, Any]:
    """The conversation as a row: messages, and the paths of the pictures that were shown."""
    head = [{"role": "system", "content": talk.system}] if talk.system else []
    said = [{"role": m.role, "content": m.content.replace(IMAGE, TAG)} for m in talk.history]
    images = [str(Path(image).resolve()) for message in talk.history for image in message.images]
    return {"messages": [*head, *said], **({"images": images} if images else {})}
