"""Rows with small pictures, rows without, in LLaVA's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

COLOURS = ("red", "green", "blue", "white")
SIZES = ((56, 56), (130, 60), (60, 90), (40, 30))


def picture_row(i: int, image: str | list[str] | None) -> dict[str, Any]:
    marks = "<image>\n" * (len(image) if isinstance(image, list) else image is not None)
    turns = [
        {"from": "human", "value": f"{marks}What colour is number {i}?"},
        {"from": "gpt", "value": f"It is {COLOURS[i % 4]}."},
    ]
    row: dict[str, Any] = {"id": str(i), "conversations": turns}
    return row if image is None else {**row, "image": image}


def write_picture_rows(folder: Path, count: int, *, text_every: int = 3) -> Path:
    """`count` rows in folder/rows.jsonl, pictures beside them; each `text_every`-th has none, one has two."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        name = f"{i}.png"
        Image.new("RGB", SIZES[i % len(SIZES)], COLOURS[i % 4]).save(folder / name)
        image: str | list[str] | None = None if text_every and i % text_every == text_every - 1 else name
        rows.append(picture_row(i, [name, "0.png"] if i == 1 else image))
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    return path
