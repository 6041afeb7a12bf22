"""What families share when they load a folder through transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.artifact import version_of
from ftx.atomic import hash_text, sha256_of, write_json
from ftx.checkpoint_files import TOKENIZER_FILES, is_computed, read_json
from ftx.data.tokens import Tokenizer
from ftx.errors import ModelError
from ftx.few_bits import hold_embedding, with_head

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from ftx.checkpoint_files import Checkpoint
    from ftx.contracts import Layout

SHOWN = 3  # weights that a sentence names


def loaded(
    model_class: type[PreTrainedModel],
    folder: Path,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    device: str,
    attention: str,
    quantization: Any,
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> PreTrainedModel:
    """The folder's weights in `model_class`, every parameter accounted for. Raises ModelError.

    With `state_dict` its tensors, named as the class names them, are taken instead of the folder's.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, info = model_class.from_pretrained(
            None if state_dict else str(folder),
            config=config,
            state_dict=state_dict,
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
    if with_head(quantization):
        hold_embedding(model)
    return model.eval()


def config_of(values: Mapping[str, Any], what: str) -> PreTrainedConfig:
    """`values` as transformers' config of the type that they name. Raises ModelError, which begins with `what`."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    try:
        return CONFIG_MAPPING[values["model_type"]].from_dict(dict(values))
    # Each config class checks its values in its own way.
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{what} cannot be read: {' '.join(str(error).split())}") from None


def skeleton(make: Callable[[], PreTrainedModel], what: str) -> PreTrainedModel:
    """The model that `make` builds, on the meta device: without memory for its weights.

    Raises ModelError when the sizes in its config do not fit each other; `what` begins it, as "config.json makes".
    """
    import torch

    try:
        with torch.device("meta"):
            return make()
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(f"{what} no model: {str(error).splitlines()[0]}") from None


def native_tensors(checkpoint: Checkpoint, layout: Layout) -> dict[str, torch.Tensor]:
    """The stored tensors as the native model's parameters, memory-mapped where they are stored as they are held."""
    return {
        name: tensor
        for shard in checkpoint.shards
        for stored, whole in checkpoint.read(shard).items()
        if not is_computed(stored)
        for name, tensor in layout.split(stored, whole).items()
    }


def check_weights(native: PreTrainedModel, checkpoint: Checkpoint, layout: Layout, what: str) -> None:
    """Compare what is stored with `native`, a model on the meta device. Raises ModelError.

    `what` says in sentences what kind of model it is.
    """
    expected = dict(native.state_dict())
    stored = {name: info for name, info in checkpoint.tensors.items() if not is_computed(name)}
    held = {part: name for name in stored for part in layout.native_names(name)}
    problems = []
    tied = set(getattr(native, "all_tied_weights_keys", None) or ())
    if missing := sorted(expected.keys() - held.keys() - tied):
        problems.append(f"{checkpoint.folder} lacks {len(missing)} weights of {what}: {some(missing)}")
    if extra := sorted({held[part] for part in held.keys() - expected.keys()}):
        problems.append(f"{checkpoint.folder} holds {len(extra)} weights that {what} has not: {some(extra)}")
    for name, info in stored.items():
        if problems:
            break
        shape = tuple(layout.join(name, expected).shape)
        if shape != info.shape:
            problems.append(f"{name} has shape {info.shape}, but config.json makes it {shape}")
    if problems:
        raise ModelError(*problems)


def some(names: list[str]) -> str:
    """The first of `names`, for a sentence."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


BYTE_PAIRS = ("vocab.json", "merges.txt")  # Qwen2's, where there is no tokenizer.json


def _content(folder: Path, options: dict[str, Any]) -> str:
    """sha256 of a tokenizer's files, the options and the libraries that read them."""
    files = {name: sha256_of(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}
    readers = {package: version_of(package) for package in ("transformers", "tokenizers")}
    return hash_text(repr((sorted(files.items()), sorted(options.items()), sorted(readers.items()))))


def load_tokenizer(folder: Path, **options: Any) -> Tokenizer:
    """The tokenizer of a model folder, without remote code. Raises ModelError.

    `options` go to transformers' TokenizersBackend, which reads tokenizer.json or tokenizer.model whatever
    class the folder names: an `auto_map` is never looked at.
    """
    from transformers import Qwen2Tokenizer, TokenizersBackend
    from transformers.utils import logging

    files = [folder / name for name in ("tokenizer.json", "tokenizer.model") if (folder / name).is_file()]
    backend = TokenizersBackend
    if not files and _is_qwen2(folder):
        files, backend = [folder / name for name in BYTE_PAIRS], Qwen2Tokenizer
    if not files:
        raise ModelError(f"{folder} has no tokenizer: neither tokenizer.json nor tokenizer.model")
    for file in files:
        if not file.stat().st_size:  # which some versions of transformers take for a tokenizer without words
            raise ModelError(f"the tokenizer of {folder} cannot be read: {file.name} is empty")
    logging.set_verbosity_error()
    try:
        read = backend.from_pretrained(str(folder), local_files_only=True, **options)
        if files[0].name == "tokenizer.model":
            _begin_as_sentencepiece(read.backend_tokenizer, files[0])
        return Tokenizer(read, _content(folder, options))
    # The tokenizers library raises bare Exception for a broken file, sentencepiece RuntimeError: no narrower net holds.
    except Exception as error:
        raise ModelError(f"the tokenizer of {folder} cannot be read: {str(error).splitlines()[0]}") from error


def write_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    """Write the tokenizer into `out` so that every version of transformers reads it from tokenizer.json alone.

    Its chat template is left out.
    """
    tokenizer.hf.save_pretrained(str(out))
    for_all_transformers(out)
    (out / "chat_template.jinja").unlink(missing_ok=True)


def for_all_transformers(out: Path) -> None:
    """Name the tokenizer saved in `out` as transformers 4 knows it too."""
    path = out / "tokenizer_config.json"
    config = {**read_json(path), "tokenizer_class": "PreTrainedTokenizerFast"}
    for key in ("chat_template", "auto_map", "backend", "is_local", "local_files_only"):
        config.pop(key, None)
    if isinstance(config.get("extra_special_tokens"), list):  # the name in transformers 5, which reads both
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    write_json(path, config)


def _is_qwen2(folder: Path) -> bool:
    """Whether the folder has Qwen2's tokenizer in its two files, whose way of cutting words transformers knows."""
    if not all((folder / name).is_file() for name in (*BYTE_PAIRS, "tokenizer_config.json")):
        return False
    return str(read_json(folder / "tokenizer_config.json").get("tokenizer_class")).startswith("Qwen2Tokenizer")


def _begin_as_sentencepiece(backend: Any, model: Path) -> None:
    """Put before a text the space that its sentencepiece model puts there, as Llama's does and transformers forgets."""
    from sentencepiece.sentencepiece_model_pb2 import ModelProto
    from tokenizers import decoders, normalizers

    space = "\u2581"
    # Read, not run: sentencepiece 0.2.2 refuses InternLM2's model, in which a piece is the null character.
    if not ModelProto.FromString(model.read_bytes()).normalizer_spec.add_dummy_prefix:
        return
    if backend.encode("a", add_special_tokens=False).tokens[0].startswith(space):
        return
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(space), backend.normalizer])
    backend.decoder = decoders.Sequence([backend.decoder, decoders.Strip(" ", 1, 0)])
