"""The documents of this app: cut into passages, indexed with Chroma once, found again by what a question means."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

try:
    import pysqlite3  # where the system's own SQLite is older than Chroma takes
except ImportError:
    pass
else:
    sys.modules["sqlite3"] = pysqlite3

import chromadb
from chromadb.config import Settings
from encoder import open_encoder
from refused import CannotStart
from settings import HERE

INDEX = HERE / "index"
WHOLE = INDEX / "whole.txt"  # written last: what the index was made of
NAME = "documents"
AT_ONCE = 256  # passages


def open_documents(settings: dict) -> Documents:
    """The indexed documents; the index is made when it is not there or is of other documents. Raises CannotStart."""
    encoder = open_encoder(HERE / "encoder")
    passages = _passages(HERE / "documents", int(settings["passage_characters"]))
    made_of = hashlib.sha256(repr((encoder.name, passages)).encode("utf-8", "replace")).hexdigest()
    if not (WHOLE.is_file() and WHOLE.read_text("utf-8") == made_of):
        shutil.rmtree(INDEX, ignore_errors=True)
        _index(_client(), encoder, passages)
        WHOLE.write_text(made_of, "utf-8")
    return Documents(_client().get_collection(NAME, embedding_function=None), encoder, settings)


class Documents:
    """The index, asked."""

    def __init__(self, collection: object, encoder: object, settings: dict) -> None:
        self._collection = collection
        self._encoder = encoder
        self._settings = settings

    def found(self, question: str) -> list:
        """The nearest passages, best first, as (text, file)."""
        asked = self._encoder.directions([question])
        most = min(int(self._settings["passages"]), self._collection.count())
        result = self._collection.query(query_embeddings=asked, n_results=most)
        return [(text, about["file"]) for text, about in zip(result["documents"][0], result["metadatas"][0])]

    def prompt(self, question: str) -> tuple:
        """What the model is asked, and the files that the passages in it are from."""
        passages = self.found(question)
        head, _, tail = self._settings["prompt"].partition("{context}")
        context = "\n\n".join(text for text, _ in passages)
        # The question goes in last and once: it, or a document, may hold braces.
        parts = [part.replace("{question}", question) for part in (head, tail)]
        return context.join(parts), list(dict.fromkeys(file for _, file in passages))


def _client() -> object:
    return chromadb.PersistentClient(str(INDEX), Settings(anonymized_telemetry=False))


def _index(client: object, encoder: object, passages: list) -> None:
    space = {"hnsw:space": "cosine"}
    collection = client.get_or_create_collection(NAME, metadata=space, embedding_function=None)
    for at in range(0, len(passages), AT_ONCE):
        some = passages[at : at + AT_ONCE]
        collection.add(
            ids=[str(at + i) for i in range(len(some))],
            embeddings=encoder.directions([text for text, _ in some]),
            documents=[text for text, _ in some],
            metadatas=[{"file": file} for _, file in some],
        )


def _passages(folder: Path, most: int) -> list:
    """All passages with their files: paragraphs, joined while they are short and cut where they are long."""
    found = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.suffix.lower() in (".txt", ".md") and path.is_file():
            text = path.read_text("utf-8", "replace")
            found += [(passage, str(path.relative_to(folder))) for passage in _cut(text, most)]
    if not found:
        raise CannotStart("documents/ holds no document with text: put .txt or .md files there")
    return found


def _cut(text: str, most: int) -> list:
    passages, held = [], ""
    for paragraph in text.replace("\r\n", "\n").split("\n\n"):
        rest = paragraph.strip()
        if held and len(held) + len(rest) + 2 > most:
            passages.append(held)
            held = ""
        while len(rest) > most:
            passages.append(rest[:most])
            rest = rest[most:]
        held = f"{held}\n\n{rest}" if held and rest else held or rest
    return [*passages, held] if held else passages
