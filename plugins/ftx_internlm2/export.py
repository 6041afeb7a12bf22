"""A whole InternLM2 written as the Llama that it is, for tools that run no code from a model folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx import Layout
from ftx.atomic import write_json
from ftx.checkpoint_files import Checkpoint, is_computed, read_json
from ftx.data.tokens import Tokenizer
from ftx.export.weights import write_renamed

if TYPE_CHECKING:
    import torch

# Those of config.json that mean the same in a Llama.
KEPT = (
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "pad_token_id",
    "rms_norm_eps",
    "tie_word_embeddings",
    "torch_dtype",
    "vocab_size",
)
# Whatever reads the sentencepiece model, the conversation and its end; the rest is in tokenizer.json.
COPIED = ("tokenizer.model", "chat_template.jinja", "generation_config.json")


def write_llama(
    checkpoint: Checkpoint, layout: Layout, config: dict[str, Any], tokenizer: Tokenizer, out: Path
) -> None:
    """Write tensors bit for bit under Llama's names, `config` in Llama's words, and a tokenizer that needs no code."""

    def renamed(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        return {} if is_computed(name) else layout.split(name, tensor)

    write_renamed(checkpoint, out, renamed)
    write_json(out / "config.json", llama_config(config))
    _write_tokenizer(checkpoint.folder, tokenizer, out)
    for name in COPIED:
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, out / name)


def llama_config(config: dict[str, Any]) -> dict[str, Any]:
    """InternLM2's config.json, checked, in the words of Llama's, old and new."""
    heads = int(config["num_attention_heads"])
    scaling = config.get("rope_scaling")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{key: config[key] for key in KEPT if key in config},
        "attention_bias": bool(config["bias"]),
        "head_dim": int(config["hidden_size"]) // heads,
        "mlp_bias": False,
        "num_key_value_heads": int(config.get("num_key_value_heads") or heads),
        "rope_scaling": {**scaling, "rope_type": scaling["type"]} if scaling else None,
        "rope_theta": config.get("rope_theta", 10000),
        "use_cache": True,
    }


def _write_tokenizer(source: Path, tokenizer: Tokenizer, out: Path) -> None:
    tokenizer.hf.save_pretrained(str(out))
    path = out / "tokenizer_config.json"
    written = read_json(path)
    stored = read_json(source / "tokenizer_config.json") if (source / "tokenizer_config.json").is_file() else {}
    for gone in ("auto_map", "backend", "is_local", "local_files_only"):
        written.pop(gone, None)
    # a list by that name is read by transformers 5 alone
    if isinstance(more := written.pop("extra_special_tokens", None), list):
        written["additional_special_tokens"] = more
    values = {
        **written,
        "add_bos_token": True,
        "add_eos_token": False,
        # InternLM2's sentencepiece model puts no space before a text, as Llama's does
        "add_prefix_space": False,
        "added_tokens_decoder": stored.get("added_tokens_decoder", {}),
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(path, values)
