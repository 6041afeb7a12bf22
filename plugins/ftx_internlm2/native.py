"""An InternLM2 written as the Llama that it is: for tools that read that layout and run no remote code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.atomic import write_json, write_text
from ftx.checkpoint_files import is_computed
from ftx.export.weights import write_renamed
from ftx.pretrained import write_tokenizer
from ftx_internlm2.config import known
from ftx_internlm2.layout import layout_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ftx.checkpoint_files import Checkpoint
    from ftx.data.tokens import Tokenizer

SENTENCEPIECE = "tokenizer.model"


def write_native(
    config: Mapping[str, Any], checkpoint: Checkpoint, tokenizer: Tokenizer, template: str | None, out: Path
) -> None:
    """Write config, weights shard by shard and tokenizer into `out`. `template` is the chat template in Jinja.

    Within the trained length a Llama computes the same bit for bit. Beyond it, with dynamic rope, it takes the length
    of a whole batch for each row's own.
    """
    layout = layout_of(config)
    write_renamed(checkpoint, out, lambda name, tensor: {} if is_computed(name) else layout.split(name, tensor))
    dtypes = {info.dtype for info in checkpoint.tensors.values()}
    write_json(out / "config.json", _llama(config, dtypes.pop() if len(dtypes) == 1 else None))
    write_tokenizer(tokenizer, out)
    if (checkpoint.folder / SENTENCEPIECE).is_file():  # llama.cpp's converter takes the words from it
        shutil.copyfile(checkpoint.folder / SENTENCEPIECE, out / SENTENCEPIECE)
    if jinja := template or tokenizer.chat_template:
        write_text(out / "chat_template.jinja", jinja)


def _llama(config: Mapping[str, Any], dtype: str | None) -> dict[str, Any]:
    values = known(dict(config))
    values["attention_bias"] = values.pop("bias")
    values.setdefault("num_key_value_heads", values["num_attention_heads"])
    scaling = values.get("rope_scaling")
    if scaling:
        values["rope_scaling"] = {**scaling, "rope_type": scaling["type"]}
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **values, "torch_dtype": dtype}
