"""Texts as directions: near ones mean alike."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from refused import CannotStart, why

SIZE = 1024  # numbers of a direction
BATCH = 32
LONGEST = 512  # tokens


def open_encoder(folder: Path) -> object:
    """The sentence encoder in `folder`, or one that counts characters where there is none."""
    return Sentences(folder) if folder.is_dir() else Characters()


class Characters:
    """Counts of one to three neighbouring characters: finds passages that share words with a question."""

    name = "characters-1"

    def directions(self, texts: list) -> np.ndarray:
        """Float32 [texts, SIZE], each of length 1."""
        found = np.zeros((len(texts), SIZE), np.float32)
        for row, text in enumerate(texts):
            squeezed = " ".join(text.lower().split())
            for length in (1, 2, 3):
                for at in range(len(squeezed) - length + 1):
                    # Longer pieces say more about a text than single characters do.
                    found[row, zlib.crc32(squeezed[at : at + length].encode("utf-8", "replace")) % SIZE] += length**2
        return _unit(np.sqrt(found))


class Sentences:
    """A sentence encoder of transformers: the mean of its last states over a text's tokens."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            self.model = AutoModel.from_pretrained(str(folder), local_files_only=True).eval()
        except (OSError, ValueError, KeyError) as error:
            raise CannotStart(f"the encoder in {folder.name}/ cannot be read: {why(error, folder)}") from None
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.name = f"sentences-{sum(p.numel() for p in self.model.parameters())}"

    def directions(self, texts: list) -> np.ndarray:
        """Float32 [texts, width], each of length 1."""
        import torch

        made = []
        for at in range(0, len(texts), BATCH):
            given = self.tokenizer(
                texts[at : at + BATCH], padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
            )
            inputs = {name: given[name] for name in ("input_ids", "attention_mask")}
            with torch.inference_mode():
                states = self.model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"][..., None]
            made.append(((states * mask).sum(1) / mask.sum(1)).numpy())
        return _unit(np.concatenate(made))


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, 1e-9)
