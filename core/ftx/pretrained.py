"""What families share when they load a folder through transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        return Tokenizer(TokenizersBackend.from_pretrained(str(folder), local_files_only=True, **options))
    # The tokenizers library raises bare Exception for a broken file, sentencepiece RuntimeError: no narrower net holds.
    except Exception as error:
        raise ModelError(f"the tokenizer of {folder} cannot be read: {str(error).splitlines()[0]}") from error
