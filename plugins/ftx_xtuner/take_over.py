"""From a checkpoint of XTuner to a merged model or an adapter of ftx."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ftx import ModelError, ModelFamily, RecipeError
from ftx.artifact import copy_companions, write_template
from ftx.atomic import whole_folder
from ftx.checkpoint_files import Checkpoint, read_json
from ftx.data.named import named_templates
from ftx.plan import generation_eos
from ftx_xtuner.adapter import on_native_names, write_adapter
from ftx_xtuner.config import TrainingConfig, read_config
from ftx_xtuner.merge import set_dtype, write_merged, xtuners_dtype
from ftx_xtuner.pth import is_deepspeed, read_pth
from ftx_xtuner.trained import Trained, part_for, parts_of, read_adapter

if TYPE_CHECKING:
    from ftx.plugins import Registry


@dataclass(frozen=True)
class Found:
    """What was trained on `base`: the `part` of XTuner's model, and `left`, the parts that are of other models."""

    base: Path
    trained: Trained
    part: str
    left: tuple[str, ...]
    config: TrainingConfig


def find(path: Path, base: Path | None, config: Path | None, alpha: float | None) -> Found:
    """Read the .pth file, DeepSpeed's folder or peft's folder `path`, and find the part of it that `base` has.

    Raises ModelError, and RecipeError for an option that is missing or wrong.
    """
    beside = path / "xtuner_config.py"  # which XTuner puts beside the adapters it converts
    config = config or (beside if beside.is_file() else None)
    read = read_config(_text(config), str(config)) if config else None
    if (path / "adapter_config.json").is_file():
        named = read_json(path / "adapter_config.json").get("base_model_name_or_path")
        read = replace(read or TrainingConfig(), base=named if isinstance(named, str) else None)
        parts = {"llm": read_adapter(path, alpha)}
    elif path.is_file() or is_deepspeed(path):
        checkpoint = read_pth(path)
        read = read or (read_config(checkpoint.config, str(path)) if checkpoint.config else TrainingConfig())
        parts = parts_of(checkpoint, read, alpha)
    else:
        raise ModelError(f"{path} is no .pth file, no checkpoint of DeepSpeed and no adapter")
    folder = _base(base, read)
    part = part_for(parts, Checkpoint.of(folder))
    return Found(folder, parts[part], part, tuple(head for head in parts if head != part), read)


def _text(config: Path) -> str:
    try:
        return config.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--config: {config} cannot be read: {error}") from None


def _base(given: Path | None, config: TrainingConfig) -> Path:
    base = given or (Path(config.base) if config.base else None)
    if base is None:
        raise RecipeError("the checkpoint does not say what it was trained on; give --base FOLDER")
    if not base.is_dir():
        raise RecipeError(f"the base model {base} is not there; give --base FOLDER")
    return base


def merge(found: Found, out: Path, dtype: str | None, registry: Registry) -> str:
    """Write the merged model into `out` and tell its dtype. `dtype` by torch's name, "auto" for the base's own.

    None is XTuner's choice. Raises RecipeError when `out` exists, ModelError, StorageError.
    """
    _refuse_existing(out)
    config = read_json(found.base / "config.json")
    wanted = xtuners_dtype(str(config.get("model_type"))) if dtype is None else None if dtype == "auto" else dtype
    with whole_folder(out) as folder:
        checkpoint = Checkpoint.of(found.base)
        write_merged(found.trained, checkpoint, folder, wanted)
        copy_companions(found.base, folder)
        if wanted:
            set_dtype(folder, wanted)
        name = registry.detect_family(config)
        if name and found.part == "llm":
            _travel(found, registry.family(name)(), folder)
    return wanted or "+".join(sorted({info.dtype for info in checkpoint.tensors.values()}))


def adapter(found: Found, out: Path, family: ModelFamily) -> str:
    """Write what was trained as an adapter on ftx's native names into `out`, and tell its dtype.

    Raises RecipeError when `out` exists, ModelError, StorageError.
    """
    _refuse_existing(out)
    with whole_folder(out) as folder:
        write_adapter(on_native_names(found.trained, family.layout(found.base)), found.base, folder)
        _travel(found, family, folder)
    return "+".join(sorted({str(f.a.dtype).removeprefix("torch.") for f in found.trained.factors.values()}))


def _travel(found: Found, family: ModelFamily, folder: Path) -> None:
    """Put the template of the training beside the weights, where the config names one."""
    template = named_templates().get(found.config.template or "")
    if template:
        # The base's own stops too, which a merged model keeps: every form is to end at the same words.
        stops = {*template.stop_ids(family.tokenizer(found.base)), *generation_eos(found.base)}
        write_template(folder, template.jinja(), sorted(stops))


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise RecipeError(f"--out: {out} exists already; give another folder")
