"""A tokenizer that keeps text and special tokens apart."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ftx.atomic import hash_text
from ftx.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokenizer:
    """Wraps a transformers tokenizer of the fast kind (`hf`).

    `encode_text` never yields a special token, whatever the text says: `<|im_end|>` typed by a user stays
    ordinary characters. Special tokens come only from `special`.
    """

    def __init__(self, hf: PreTrainedTokenizerBase, fingerprint: str | None = None) -> None:
        """`fingerprint` names what `hf` was read from; without it the whole vocabulary is hashed when asked for."""
        if not getattr(hf, "is_fast", False):
            raise ModelError("the tokenizer has no fast form: add a tokenizer.json to the model folder")
        self.hf = hf
        self._content = fingerprint
        self._plain = copy.deepcopy(hf.backend_tokenizer)
        self._plain.encode_special_tokens = True
        self._plain.no_padding()
        self._plain.no_truncation()
        self._found: dict[str, int] = {}
        self._frames: dict[str, tuple[str | tuple[int, ...], ...]] = {}
        ordered = sorted(self.specials, key=len, reverse=True)
        self._specials = re.compile("(" + "|".join(map(re.escape, ordered)) + ")") if ordered else None

    @property
    def bos(self) -> str:
        """The text of the token that begins a row, "" when the model has none."""
        return str(self.hf.bos_token or "")

    @property
    def eos_ids(self) -> set[int]:
        return set() if self.hf.eos_token_id is None else {int(self.hf.eos_token_id)}

    @property
    def pad_id(self) -> int:
        """The id that fills rows to equal length; never labelled and never attended to."""
        return int(self.hf.pad_token_id if self.hf.pad_token_id is not None else 0)

    @property
    def largest_id(self) -> int:
        return max(self.words.values(), default=0)

    @property
    def words(self) -> dict[str, int]:
        """Every word of the vocabulary as it is stored, added tokens included, and its id."""
        return dict(self.hf.get_vocab())

    @property
    def texts(self) -> list[str]:
        """What each word of the vocabulary says, each text once, by id."""
        ids = [[index] for index in sorted(self.words.values())]
        return list(dict.fromkeys(self._plain.decode_batch(ids, skip_special_tokens=False)))

    @property
    def specials(self) -> set[str]:
        return {token.content for token in self.hf.added_tokens_decoder.values() if token.special}

    @property
    def chat_template(self) -> str | None:
        template = self.hf.chat_template
        return template if isinstance(template, str) else None

    def encode_text(self, text: str) -> list[int]:
        """Ids of ordinary text: no special token, nothing put before or after."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def encode_texts(self, texts: Iterable[str], *, specials: bool = False) -> dict[str, list[int]]:
        """Ids of many texts at once; with `specials`, special tokens written in them count as such."""
        given = list(texts)
        if specials:
            return {text: self._typed(text) for text in given}
        return {
            text: found.ids
            for text, found in zip(given, self._plain.encode_batch_fast(given, add_special_tokens=False), strict=True)
        }

    def _typed(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self.split_specials(text):
            special = self.special(part)
            ids += self.encode_text(part) if special is None else [special]
        return ids

    def special(self, token: str) -> int | None:
        """The id of a special token, or None when the vocabulary does not hold it as one token."""
        if token not in self._found:
            if self._specials is None or not self._specials.fullmatch(token):
                return None
            self._found[token] = int(self.hf.convert_tokens_to_ids(token))
        return self._found[token]

    def parts(self, frame: str) -> tuple[str | tuple[int, ...], ...]:
        """A template's own text cut at its special tokens, each of which stands as its id; kept, as frames recur."""
        if frame not in self._frames:
            cut = [(part, self.special(part)) for part in self.split_specials(frame)]
            self._frames[frame] = tuple(part if special is None else (special,) for part, special in cut)
        return self._frames[frame]

    def split_specials(self, text: str) -> list[str]:
        """`text` cut at its special tokens, which stand as elements of their own."""
        return [p for p in (self._specials.split(text) if self._specials else [text]) if p]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included."""
        return str(self.hf.decode(list(ids)))

    @cached_property
    def longest_token(self) -> int:
        """Characters of the longest word of the vocabulary: no token stands for more of a text."""
        return max(map(len, self.words), default=1)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all that decides how text becomes ids."""
        return self._content or hash_text(self._plain.to_str() + self.bos + repr(sorted(self.eos_ids)))
