"""A whole LLaVA written in one of the three layouts, tensors bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx import ModelError
from ftx.atomic import write_json
from ftx.export.weights import write_shards
from ftx.pretrained import for_all_transformers, native_tensors
from ftx_llava.companions import (
    CHAT,
    copy_files,
    copy_language,
    write_official_tower,
    write_xtuner,
)
from ftx_llava.config import TOWERS, as_llama, native_config
from ftx_llava.images import FILES
from ftx_llava.layout import LANGUAGE, LEVEL, stored_name
from ftx_llava.stored import OFFICIAL_TOWER

if TYPE_CHECKING:
    import torch

    from ftx_llava.family import LLaVA
    from ftx_llava.stored import Stored

    Tensors = dict[str, torch.Tensor]

SHARD = "4GB"  # of a file at most
IMAGE, PAD = "<image>", "<pad>"
MULTIPLE = 64  # of words that Hugging Face's LLaVAs have
GENERATION = "generation_config.json"
ROWS = (f"{LANGUAGE}embed_tokens.weight", "lm_head.weight")


def write_as(family: LLaVA, folder: Path, layout: str, out: Path) -> None:
    """Write the model of `folder` into `out` in `layout`. Raises ModelError for what the layout cannot hold."""
    stored = family.stored(folder)
    if layout == "xtuner":
        _refuse_for_xtuner(stored)
        _write_xtuner(family, stored, out)
        return
    tensors = native_tensors(family.checkpoint(folder), family.layout(folder))
    if layout == "official":
        _refuse_for_official(stored)
        _write_official(family, stored, tensors, out)
    else:
        _write_huggingface(family, stored, tensors, out)


def _write_xtuner(family: LLaVA, stored: Stored, out: Path) -> None:
    checkpoint = family.checkpoint(stored.folder)
    if stored.layout == "xtuner":
        write_shards(checkpoint, out, checkpoint.reader())
        family.copy_companions(stored.folder, out)
        return
    _save(_renamed(native_tensors(checkpoint, family.layout(stored.folder)), "xtuner"), out)
    copy_language(stored, out)
    write_json(out / "config.json", _language_config(stored))
    write_xtuner(stored, out)


def _write_official(family: LLaVA, stored: Stored, tensors: Tensors, out: Path) -> None:
    """haotian-liu's layout, and beside it the tower's own folder, from which its code builds the tower."""
    _save(_renamed(tensors, "official"), out)
    tower = {name: tensor for name, tensor in tensors.items() if name.startswith("model.vision_tower.")}
    _save({f"{OFFICIAL_TOWER}/{LEVEL}{_inner(name)}": tensor for name, tensor in tower.items()}, out)
    write_official_tower(stored, out)
    _write_language(family, stored, out)
    copy_files(stored.tower, out, *FILES)
    config = native_config(stored.text, stored.vision, stored.eyes, str(stored.folder))
    values = {
        **_language_config(stored),
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "image_aspect_ratio": "pad" if family.pad == "square" else "square",
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch" if stored.eyes.select == "default" else "cls_patch",
        "mm_vision_select_layer": stored.eyes.layer,
        "mm_vision_tower": OFFICIAL_TOWER,
        "unfreeze_mm_vision_tower": True,
        "use_mm_proj": True,
    }
    write_json(out / "config.json", values)


def _write_huggingface(family: LLaVA, stored: Stored, tensors: Tensors, out: Path) -> None:
    """transformers' LLaVA as the hub has it, with <image> and <pad> in the vocabulary."""
    hf = family.tokenizer(stored.folder).hf
    if (template := family.own_template(stored.folder)) is not None:
        hf.chat_template = template.jinja()
    hf.add_tokens([IMAGE], special_tokens=True)
    hf.add_special_tokens({"pad_token": PAD})
    words = max(len(hf), tensors[ROWS[0]].shape[0])
    grown = words if words == tensors[ROWS[0]].shape[0] else -(-words // MULTIPLE) * MULTIPLE
    for name in ROWS:
        if name in tensors:  # a tied head is not stored
            tensors[name] = _grown(tensors[name], grown)
    _save(_renamed(tensors, "huggingface"), out)
    _save_tokenizer(hf, out)
    copy_files(stored.language, out, GENERATION)
    copy_files(stored.tower, out, *FILES[:1])
    config = native_config(stored.text, stored.vision, stored.eyes, str(stored.folder))
    text = {**as_llama(stored.text), "vocab_size": grown}
    values = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "ignore_index": -100,
        "image_seq_length": config.image_seq_length,
        "image_token_index": hf.convert_tokens_to_ids(IMAGE),
        "pad_token_id": hf.pad_token_id,
        "projector_hidden_act": stored.eyes.act,
        "multimodal_projector_bias": stored.eyes.bias,
        "text_config": text,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": _dtype(tensors),
        "vision_config": {key: value for key, value in stored.vision.items() if key != "_name_or_path"},
        "vision_feature_layer": stored.eyes.layer,
        "vision_feature_select_strategy": stored.eyes.select,
    }
    write_json(out / "config.json", values)
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE,
        "patch_size": config.vision_config.patch_size,
        "num_additional_image_tokens": int(config.vision_config.model_type == TOWERS[0]),
        "vision_feature_select_strategy": stored.eyes.select,
    }
    write_json(out / "processor_config.json", processor)


def _grown(rows: torch.Tensor, count: int) -> torch.Tensor:
    """`rows` with new ones up to `count`: the mean of those that are there.

    The mean row's logit is the mean of all: never the largest, so that greedy answers stay what they were.
    The official conversion draws them at random near that mean, other ones every time.
    """
    import torch

    mean = rows.float().mean(0, keepdim=True).to(rows.dtype)
    return torch.cat([rows, mean.expand(count - rows.shape[0], -1)])


def _write_language(family: LLaVA, stored: Stored, out: Path) -> None:
    """Tokenizer and generation config; InternLM2's tokenizer as one that needs no code of its own."""
    if stored.text["model_type"] != "internlm2":
        copy_language(stored, out)
        return
    hf = family.tokenizer(stored.folder).hf
    if (template := family.own_template(stored.folder)) is not None:
        hf.chat_template = template.jinja()
    _save_tokenizer(hf, out)
    copy_files(stored.language, out, GENERATION, CHAT)


def _save_tokenizer(hf: Any, out: Path) -> None:
    hf.init_kwargs.pop("auto_map", None)  # names code that is not there
    hf.save_pretrained(str(out))
    for_all_transformers(out)


def _language_config(stored: Stored) -> dict[str, Any]:
    """The language model's config.json, for itself."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    values = as_llama(stored.text)
    return {"architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[values["model_type"]]], **values}


def _refuse_for_xtuner(stored: Stored) -> None:
    if (stored.eyes.select == "default") != (stored.vision["model_type"] == TOWERS[0]):
        raise ModelError(
            f"{stored.folder} takes '{stored.eyes.select}' features of its tower: XTuner's layout cannot say so"
        )


def _refuse_for_official(stored: Stored) -> None:
    """Raise ModelError for what haotian-liu's LLaVA has not."""
    kind = as_llama(stored.text)["model_type"]
    if kind != "llama":
        raise ModelError(
            f"{stored.folder}: the official layout is for Llama and InternLM2; export huggingface for {kind}"
        )
    if stored.vision["model_type"] != TOWERS[0]:
        raise ModelError(f"{stored.folder}: the official layout is for CLIP towers; export huggingface for SigLIP")
    if (stored.eyes.act, stored.eyes.bias) != ("gelu", True):
        raise ModelError(f"{stored.folder}: the official layout is for projectors with gelu and bias")


def _renamed(tensors: Tensors, layout: str) -> Tensors:
    return {stored_name(name, layout): tensor for name, tensor in tensors.items()}


def _inner(native: str) -> str:
    """The name of a tower's parameter in the tower."""
    return native.removeprefix("model.vision_tower.").removeprefix(LEVEL)


def _dtype(tensors: Mapping[str, torch.Tensor]) -> str:
    """The dtype that most parameters have, by torch's name."""
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return counts.most_common(1)[0][0]


def _save(tensors: Tensors, out: Path) -> None:
    """Write tensors named "folder/name" into these folders, in shards of a readable size each with its index."""
    for below in dict.fromkeys(name.rpartition("/")[0] for name in tensors):
        (out / below).mkdir(exist_ok=True)
        _save_here({n.rpartition("/")[2]: t for n, t in tensors.items() if n.rpartition("/")[0] == below}, out / below)


def _save_here(tensors: Tensors, out: Path) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    split = split_torch_state_dict_into_shards(tensors, max_shard_size=SHARD)
    for file, names in split.filename_to_tensors.items():
        # A clone of its own for each, as shared or strided memory cannot be stored.
        save_file({name: tensors[name].contiguous().clone() for name in names}, out / file, metadata={"format": "pt"})
    if split.is_sharded:
        write_json(
            out / "model.safetensors.index.json", {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        )
