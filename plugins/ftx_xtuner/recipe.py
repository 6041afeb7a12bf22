"""From a training config of XTuner to a recipe of ftx that trains the same: read, never run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftx import ModelError, RecipeError
from ftx.checkpoint_files import read_json
from ftx_xtuner.config import ALPHA, RANK, Name, read_config, written_out

# What XTuner's default puts adapters on: the linear layers, with InternLM2's head, which it does not know for one.
INTERNLM2 = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
BY_HAND = "write its recipe by hand (docs/data.md)"
HUB = "huggingface"


def recipe_of(path: Path) -> dict[str, Any]:
    """The recipe's values. Raises RecipeError, and ModelError for a config of another kind of training."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from None
    names, config = written_out(text, str(path)), read_config(text, str(path))
    model, loader = _section(names.get("model")), _section(names.get("train_dataloader"))
    kind, dataset = _called(model.get("type")), _section(loader.get("dataset"))
    if kind != "SupervisedFinetune":
        raise ModelError(f"{path} trains {kind or 'no model'}; ftx takes over SupervisedFinetune, {BY_HAND}")
    if _called(dataset.get("type")) != "process_hf_dataset":
        raise ModelError(f"{path} reads its data by {_called(dataset.get('type'))}, not process_hf_dataset; {BY_HAND}")
    if config.base is None:
        raise ModelError(f"{path} names no base model")
    here = Path(config.base).is_dir()
    recipe = {
        "model": config.base if here or Path(config.base).is_absolute() else f"{HUB}:{config.base}",
        "template": config.template,
        "data": _data(dataset, path),
        "method": _method(model, Path(config.base)),
        "train": _train(names, loader),
        "eval": _eval(names),
    }
    return {key: value for key, value in recipe.items() if value is not None}


def _data(dataset: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The set and how its rows become samples: cut at the length and strung together, as XTuner does."""
    loaded = _section(dataset.get("dataset"))
    files = loaded.get("data_files")
    files = files.get("train") if isinstance(files, dict) else files
    files = [files] if isinstance(files, str) else files
    if not files and isinstance(loaded.get("path"), str):
        files = [f"{HUB}:{loaded['path']}"]
    if not isinstance(files, list) or not all(isinstance(one, str) for one in files):
        raise ModelError(f"{path} does not write out where its data is; {BY_HAND}")
    rows = _called(dataset.get("dataset_map_fn"))
    varlen = dataset.get("use_varlen_attn") is True
    packing = "none" if dataset.get("pack_to_max_length") is False else "best_fit" if varlen else "xtuner"
    return {
        "sets": [{"path": one, **({"format": rows} if rows else {})} for one in files],
        **({"max_length": dataset["max_length"]} if isinstance(dataset.get("max_length"), int) else {}),
        "overlong": "cut",
        "packing": packing,
        "typed_specials": True,
    }


def _method(model: Mapping[str, Any], base: Path) -> dict[str, Any]:
    lora = _section(model.get("lora"))
    if not lora:
        return {"name": "full"}
    quantised = _section(_section(model.get("llm")).get("quantization_config")).get("load_in_4bit") is True
    if (base / "config.json").is_file():
        internlm2 = read_json(base / "config.json").get("model_type") == "internlm2"
    else:
        internlm2 = "internlm2" in base.name
    targets = INTERNLM2 if internlm2 else None
    options = {
        "name": "qlora" if quantised else "lora",
        "rank": lora.get("r", RANK),
        "alpha": lora.get("lora_alpha", ALPHA),
        "dropout": lora.get("lora_dropout", 0.0),
        "targets": targets if lora.get("target_modules") is None else None,
    }
    return {key: value for key, value in options.items() if value is not None}


def _train(names: Mapping[str, Any], loader: Mapping[str, Any]) -> dict[str, Any]:
    wrapper = _section(names.get("optim_wrapper"))
    optimizer, clip = _section(wrapper.get("optimizer")), _section(wrapper.get("clip_grad"))
    micro, steps = loader.get("batch_size"), wrapper.get("accumulative_counts", 1)
    whole = isinstance(micro, int) and isinstance(steps, int)
    seed = _section(names.get("randomness")).get("seed")
    values = {
        "epochs": _section(names.get("train_cfg")).get("max_epochs"),
        "lr": optimizer.get("lr"),
        "global_batch_size": micro * steps if whole else None,
        "micro_batch_size": micro,
        "warmup_ratio": names.get("warmup_ratio"),
        "weight_decay": optimizer.get("weight_decay"),
        "betas": optimizer.get("betas"),
        "max_grad_norm": clip.get("max_norm"),
        "seed": seed,
    }
    return {key: value for key, value in values.items() if _plain(value)}


def _eval(names: Mapping[str, Any]) -> dict[str, Any] | None:
    questions = names.get("evaluation_inputs")
    if not isinstance(questions, list) or not questions or not all(isinstance(one, str) for one in questions):
        return None
    system = names.get("SYSTEM")
    return {"questions": questions, **({"system": system} if isinstance(system, str) and system else {})}


def _section(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_plain(one) for one in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _called(value: Any) -> str | None:
    """The last part of a class's or function's name, which a dumped config has as text."""
    text = value.text if isinstance(value, Name) else value
    return text.rpartition(".")[2] if isinstance(text, str) else None
