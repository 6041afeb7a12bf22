"""Questions that a model is asked: from a file of their own, or the first ones of training rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.contracts import Record
from ftx.data.conversation import IMAGE, Conversation, RowError
from ftx.data.images import image_path
from ftx.data.sets import DataSet, detect
from ftx.errors import DataError
from ftx.reader import TAG

if TYPE_CHECKING:
    from ftx.plugins import Registry

KEYS = {"question", "answer", "image", "images", "system"}


@dataclass(frozen=True)
class Question:
    """`text` has <image> for each picture, or none; `reference` is the expected answer, where one is known."""

    text: str
    reference: str | None = None
    images: tuple[Path, ...] = ()
    system: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "images": [path.name for path in self.images]}


def read_questions(path: Path, option: str, registry: Registry) -> list[Question]:
    """The questions of a file: a .txt with one a line, or rows {question, answer, image or images, system}, of which
    all but the first may be left out, or rows of any format that ftx reads. Raises DataError, naming `option`.
    """
    if not path.is_file():
        raise DataError(f"{option}: there is no file {path}")
    if path.suffix == ".txt":
        found = [Question(line.strip()) for line in _text(path, option).splitlines() if line.strip()]
    else:
        found = list(_rows(path, option, registry))
    if not found:
        raise DataError(f"{option}: {path} holds no question")
    return found


def _text(path: Path, option: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{option}: {path} cannot be read: {error}") from None


def _rows(path: Path, option: str, registry: Registry) -> Iterator[Question]:
    from ftx.plan import configured
    from ftx.recipe import source_of

    source = configured(registry.source("files"), {**source_of(str(path)), "name": "files"}, option)
    records = list(source.records())
    values = [record.value for record in records]
    known = None if any(map(_own, values)) else detect(values, registry)
    for record in records:
        try:
            if isinstance(record.value, RowError):
                raise record.value
            if known is None:
                yield _question(record)
                continue
            row = DataSet(source, known[0], known[1], None)
            yield from asked_in(row, [record])
        except RowError as error:
            raise DataError(f"{option}: {record.file}: row {record.line}: {error.reason}; {error.remedy}") from None


def _own(value: Any) -> bool:
    return isinstance(value, dict) and "question" in value and set(value) <= KEYS


def _question(record: Record) -> Question:
    row = record.value
    remedy = "write {question, answer, image, system}; all but the question may be left out"
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
        raise RowError("the row has no question", remedy)
    if strange := set(row) - KEYS:
        raise RowError(f"'{sorted(strange)[0]}' is no key of a question", remedy)
    for key in ("answer", "system"):
        if not isinstance(row.get(key), str | None):
            raise RowError(f"'{key}' is no text", remedy)
    images = row.get("images", row.get("image")) or []
    names = [images] if isinstance(images, str) else images
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RowError("'images' is no list of paths", remedy)
    folder = Path(record.file).parent
    paths = tuple(image_path(folder, name) for name in names)
    return Question(row["question"], row.get("answer"), paths, row.get("system"))


def asked_in(rows: DataSet, records: Iterable[Record]) -> Iterator[Question]:
    """The first question of each conversation with its answer; plain text and calls of tools ask nothing.

    Raises RowError for a row that cannot be read.
    """
    for record in records:
        for conversation in rows.conversations(record):
            if (found := _first(conversation, rows.images_in(record))) is not None:
                yield found


def _first(conversation: Conversation, folder: Path) -> Question | None:
    messages = conversation.messages
    system = messages[0].content if messages[0].role == "system" else None
    said = messages[1:] if system is not None else messages
    if len(said) < 2 or (said[0].role, said[1].role) != ("user", "assistant") or said[1].tool_calls:
        return None
    images = tuple(image_path(folder, name) for name in said[0].images)
    return Question(said[0].content.replace(IMAGE, TAG), said[1].content, images, system)


def spread(questions: list[Question], most: int) -> list[Question]:
    """At most so many of them, from the first to the last at even distances."""
    if len(questions) <= most:
        return questions
    return [questions[i * len(questions) // most] for i in range(most)]
