"""The fixed questions that all forms of a model are asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftx.data.conversation import RowError, refuse_strange_characters
from ftx.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

PICTURE = "gradient"  # the one picture that ftx draws for them


@dataclass(frozen=True)
class Probe:
    """A conversation: `turns` in order, the last one a question; `image`, drawn or a path, is shown with the first."""

    turns: tuple[str, ...]
    system: str | None = None
    image: str | None = None

    @property
    def key(self) -> str:
        """Tells one probe from another, also between versions of ftx."""
        return json.dumps([self.turns, self.system, self.image], ensure_ascii=False)


TEXT = (
    Probe(("Hello! Who are you? Please tell me about the weather, the capital of France and 7 + 5.",)),
    Probe(("你好，请介绍一下你自己。今天天气怎么样？",)),
    Probe(("What is 3 + 4?",), system="You are a helpful assistant."),
    Probe(("你是谁？", "我是小书。", "我们刚才说了什么？")),
)
SEEN = (Probe(("What do you see in the picture?",), image=PICTURE), Probe(("请描述这张图片。",), image=PICTURE))


def own_probes(*, sees: bool) -> list[Probe]:
    """ftx's own: text, and pictures for a model that sees."""
    return [*TEXT, *(SEEN if sees else ())]


def read_probes(path: Path) -> list[Probe]:
    """One {"question": text or list of turns, "system"?, "image"?: path beside the file} a line. Raises DataError."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--probes: {path} cannot be read: {error}") from None
    found = [_probe(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError(f"--probes: {path} holds no question")
    return found


def _probe(path: Path, number: int, line: str) -> Probe:
    try:
        row = json.loads(line)
        turns = (row["question"],) if isinstance(row["question"], str) else tuple(row["question"])
        image = row.get("image")
        if len(turns) % 2 == 0 or not all(isinstance(turn, str) and turn for turn in turns):
            raise TypeError("turns go question, answer, ..., question")
        if image is not None and not (path.parent / image).resolve().is_relative_to(path.parent.resolve()):
            raise ValueError("its image leaves the folder")
        system = row.get("system")
        if not isinstance(system, str | None):
            raise TypeError("its system message is no text")
        for text in (*turns, system or ""):
            refuse_strange_characters(text)
        return Probe(turns, system, str(path.parent / image) if image else None)
    except (RowError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'--probes: {path}, line {number} is no {{"question": ..., "system"?: ..., "image"?: ...}}: {error}'
        ) from None


def drawn() -> Image.Image:
    """The picture, 96 x 64, RGB: a gradient reaches every tile alike."""
    from PIL import Image

    return Image.linear_gradient("L").resize((96, 64)).convert("RGB")
