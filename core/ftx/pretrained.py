"""What families share when they load a folder through transformers."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.atomic import hash_text, sha256_of
from ftx.data.tokens import Tokenizer
from ftx.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


def loaded(
    model_class: type[PreTrainedModel],
    folder: Path,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    device: str,
    attention: str,
    quantization: Any,
) -> PreTrainedModel:
    """The folder's weights in `model_class`, every parameter accounted for. Raises ModelError."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, info = model_class.from_pretrained(
            str(folder),
            config=config,
            dtype=dtype,
            device_map=device,
            attn_implementation=attention,
            quantization_config=quantization,
            output_loading_info=True,
            local_files_only=True,
        )
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    for what in ("missing_keys", "mismatched_keys"):
        if info[what]:
            raise ModelError(f"{folder}: {what.replace('_', ' ')}: {sorted(map(str, info[what]))[:3]}")
    return model.eval()


# All that decides how a folder's text becomes ids.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def _content(folder: Path, options: dict[str, Any]) -> str:
    """sha256 of a tokenizer's files, the options and the libraries that read them."""
    files = {name: sha256_of(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}
    readers = {package: version(package) for package in ("transformers", "tokenizers")}
    return hash_text(repr((sorted(files.items()), sorted(options.items()), sorted(readers.items()))))


def load_tokenizer(folder: Path, **options: Any) -> Tokenizer:
    """The tokenizer of a model folder, without remote code. Raises ModelError.

    `options` go to transformers' TokenizersBackend, which reads tokenizer.json or tokenizer.model whatever
    class the folder names: an `auto_map` is never looked at.
    """
    from transformers import TokenizersBackend
    from transformers.utils import logging

    files = [folder / name for name in ("tokenizer.json", "tokenizer.model") if (folder / name).is_file()]
    if not files:
        raise ModelError(f"{folder} has no tokenizer: neither tokenizer.json nor tokenizer.model")
    for file in files:
        if not file.stat().st_size:  # which some versions of transformers take for a tokenizer without words
            raise ModelError(f"the tokenizer of {folder} cannot be read: {file.name} is empty")
    logging.set_verbosity_error()
    try:
        read = TokenizersBackend.from_pretrained(str(folder), local_files_only=True, **options)
        return Tokenizer(read, _content(folder, options))
    # The tokenizers library raises bare Exception for a broken file, sentencepiece RuntimeError: no narrower net holds.
    except Exception as error:
        raise ModelError(f"the tokenizer of {folder} cannot be read: {str(error).splitlines()[0]}") from error
