"""An InternVL2 written as transformers' own InternVL: for tools that read that layout and run no remote code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx import ModelError
from ftx.atomic import write_json, write_text
from ftx.checkpoint_files import is_computed
from ftx.export.weights import write_renamed
from ftx.pretrained import for_all_transformers
from ftx_internvl.config import Chat, native_config
from ftx_internvl.tiles import MEAN, STD

if TYPE_CHECKING:
    import torch

    from ftx.checkpoint_files import Checkpoint
    from ftx.contracts import Layout
    from ftx.data.tokens import Tokenizer

# names in our model -> names in the files of the hub, which transformers reads and writes
HUB = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}
OWN_ATTRIBUTES = ("tile", "ps_version", "language")
SPECIALS = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
NATIVE_EPS = 1e-6  # of the query and key norms in transformers' class, whatever the config says


def check_expressible(chat: Chat) -> None:
    """Raise ModelError for what transformers' class does otherwise than the official code."""
    if chat.ps_version != "v2":
        raise ModelError(
            f"ps_version {chat.ps_version} has no place in transformers' InternVL; keep the official layout"
        )
    if chat.vision_config.qk_normalization and chat.vision_config.layer_norm_eps != NATIVE_EPS:
        raise ModelError(
            f"layer_norm_eps {chat.vision_config.layer_norm_eps} of the query and key norms has no place in "
            "transformers' InternVL; keep the official layout"
        )
    if not chat.dynamic_image_size or chat.pad2square:
        raise ModelError("transformers' InternVL knows dynamic tiles alone; keep the official layout")


def write_native(
    chat: Chat, checkpoint: Checkpoint, layout: Layout, tokenizer: Tokenizer, template: str | None, out: Path
) -> None:
    """Write config, weights shard by shard, tokenizer and processor files into `out`. Raises ModelError.

    `template` is the chat template in Jinja.
    """
    check_expressible(chat)
    write_renamed(checkpoint, out, lambda stored, tensor: _renamed(stored, tensor, layout))
    dtypes = {info.dtype for info in checkpoint.tensors.values()}
    write_json(out / "config.json", _config(chat, tokenizer, dtypes.pop() if len(dtypes) == 1 else None))
    _write_tokenizer(tokenizer, template, out)
    _write_processor(chat, out)


def _renamed(stored: str, tensor: torch.Tensor, layout: Layout) -> dict[str, torch.Tensor]:
    if is_computed(stored):
        return {}
    return {hub_name(name): part for name, part in layout.split(stored, tensor).items()}


def hub_name(native: str) -> str:
    """The parameter's name in the hub's files."""
    for own, stored in HUB.items():
        if native.startswith(own):
            return stored + native.removeprefix(own)
    raise ValueError(native)


def _config(chat: Chat, tokenizer: Tokenizer, dtype: str | None) -> dict[str, Any]:
    config: dict[str, Any] = native_config(chat, "config.json").to_dict()
    for key in OWN_ATTRIBUTES:
        config.pop(key, None)
    config |= {
        "architectures": ["InternVLForConditionalGeneration"],
        "image_token_id": tokenizer.special(SPECIALS["context_image_token"]),
        "dtype": dtype,
    }
    return config


def _write_tokenizer(tokenizer: Tokenizer, template: str | None, out: Path) -> None:
    tokenizer.hf.save_pretrained(str(out))
    for_all_transformers(out)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    # The processor asks for these by name, for a video's too: a token of its own would lie beyond the vocabulary.
    config["extra_special_tokens"] = {**SPECIALS, "video_token": SPECIALS["context_image_token"]}
    config["processor_class"] = "InternVLProcessor"
    config.pop("additional_special_tokens", None)
    write_json(path, config)
    if template is not None:
        write_text(out / "chat_template.jinja", with_parts(template))


def with_parts(jinja: str) -> str:
    """The chat template for contents that are lists of parts too, as processors are given them."""
    said = (
        "{% macro said(message) %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endmacro %}"
    )
    return said + jinja.replace("message['content']", "said(message)")


def _write_processor(chat: Chat, out: Path) -> None:
    side = {"height": chat.tile, "width": chat.tile}
    images = {
        "crop_to_patches": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(MEAN),
        "image_processor_type": "GotOcr2ImageProcessor",
        "image_std": list(STD),
        "max_patches": chat.max_dynamic_patch,
        "min_patches": chat.min_dynamic_patch,
        "processor_class": "InternVLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": side,
    }
    write_json(out / "preprocessor_config.json", images)
    processor = {"processor_class": "InternVLProcessor", "image_seq_length": chat.places}
    write_json(out / "processor_config.json", processor)
