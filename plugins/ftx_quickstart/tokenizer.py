"""Trains a small sentencepiece tokenizer and writes it in the layout of InternLM2's own."""

from __future__ import annotations

import importlib
import io
import json
import re
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = (
    "<|plugin|>",
    "<|interpreter|>",
    "<|action_end|>",
    "<|action_start|>",
    "<|im_end|>",
    "<|im_start|>",
)
"""InternLM2's special tokens, the last six ids in this order."""

HANZI_SHARE = 0.65
"""The largest part of the free vocabulary that single Chinese characters may take."""

_CONTROL = ("<unk>", "<s>", "</s>")
# What sentencepiece writes for a space.
_SPACE = "\u2581"
_FIXED = len(_CONTROL) + 256 + len(SPECIAL_TOKENS)
_HANZI = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_PLAIN = string.ascii_letters + string.digits + string.punctuation
# The chat template writes these before every message.
_ROLES = "system user assistant"
_WIDE = "，。！？：；、“”‘’（）《》…—"

_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_tokenizer(texts: Iterable[str], out: Path, vocab_size: int = 3584) -> None:
    """Trains on the texts and writes tokenizer.model and its two JSON files into the folder out.

    Chinese characters get single pieces, the commonest first; the others fall back to UTF-8 bytes.
    Raises ValueError where vocab_size is too small for the fixed pieces, ASCII and punctuation.
    """
    sentences, counts = _split(texts)
    letters = _PLAIN + _WIDE
    free = vocab_size - _FIXED - len(letters) - 1
    if free < 0:
        raise ValueError(f"vocab_size must be at least {vocab_size - free}, not {vocab_size}")
    hanzi = [char for char, _ in sorted(counts.items(), key=_commonest)[: int(free * HANZI_SHARE)]]
    trained = _train(sentences, letters, vocab_size - len(SPECIAL_TOKENS) - len(hanzi))
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.model").write_bytes(_model(trained, hanzi, vocab_size))
    _write_json(out / "special_tokens_map.json", _named_tokens())
    _write_json(out / "tokenizer_config.json", _config(vocab_size))


def _commonest(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _split(texts: Iterable[str]) -> tuple[list[str], Counter[str]]:
    """The stretches between Chinese and unknown characters, and how often each Chinese one comes."""
    counts: Counter[str] = Counter()
    known = set(_PLAIN + _WIDE + " ")
    sentences: list[str] = []
    for text in texts:
        counts.update(_HANZI.findall(text))
        spaced = "".join(char if char in known else "\n" for char in text)
        sentences.extend(part for part in spaced.split("\n") if part)
    return sentences, counts


def _train(sentences: list[str], letters: str, size: int) -> Any:
    sentencepiece = importlib.import_module("sentencepiece")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([_ROLES, *sentences]),
        model_writer=written,
        model_type="bpe",
        vocab_size=size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        required_chars=letters + _SPACE,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return _proto(written.getvalue())


def _proto(serialized: bytes = b"") -> Any:
    model = importlib.import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
    model.ParseFromString(serialized)
    return model


def _model(trained: Any, hanzi: list[str], vocab_size: int) -> bytes:
    kinds = trained.SentencePiece
    model = _proto()
    for piece in trained.pieces:
        model.pieces.add(piece=piece.piece, score=piece.score, type=piece.type)
    # Chinese characters take part in no merge: a name is cut alike wherever it stands, so it can be copied.
    lowest = min(piece.score for piece in model.pieces)
    for i, char in enumerate(hanzi, start=1):
        model.pieces.add(piece=char, score=lowest - i, type=kinds.NORMAL)
    for i in range(vocab_size - len(model.pieces)):
        model.pieces.add(piece=f"[UNUSED_TOKEN_{i}]", score=0.0, type=kinds.USER_DEFINED)
    _describe(model, vocab_size)
    return bytes(model.SerializeToString(deterministic=True))


def _describe(model: Any, vocab_size: int) -> None:
    # The trainer's own description is left behind, because it depends on how and where it ran.
    spec = model.trainer_spec
    spec.model_type = type(spec).BPE
    spec.vocab_size = vocab_size
    spec.character_coverage = 1.0
    spec.num_threads = 1
    spec.split_digits = True
    spec.allow_whitespace_only_pieces = True
    spec.hard_vocab_limit = False
    spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.precompiled_charsmap = b""
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False


def _named_tokens() -> dict[str, Any]:
    unk, bos, eos = _CONTROL
    return {
        "bos_token": bos,
        "eos_token": eos,
        "unk_token": unk,
        "pad_token": eos,
        "additional_special_tokens": list(reversed(SPECIAL_TOKENS)),
    }


def added_token(content: str) -> dict[str, Any]:
    """A special token's entry in the added_tokens_decoder of tokenizer_config.json."""
    return {
        "content": content,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


def _config(vocab_size: int) -> dict[str, Any]:
    first = vocab_size - len(SPECIAL_TOKENS)
    added = dict(enumerate(_CONTROL)) | dict(enumerate(SPECIAL_TOKENS, start=first))
    named = _named_tokens()
    return {
        "added_tokens_decoder": {str(index): added_token(content) for index, content in added.items()},
        "additional_special_tokens": named.pop("additional_special_tokens"),
        **named,
        "clean_up_tokenization_spaces": False,
        "decode_with_prefix_space": False,
        # What transformers writes for "no limit".
        "model_max_length": int(1e30),
        "sp_model_kwargs": None,
        "tokenizer_class": "InternLM2Tokenizer",
        "chat_template": _CHAT_TEMPLATE,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8", newline="\n")
