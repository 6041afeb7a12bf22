"""What a folder holds: which of the three layouts, where its parts lie, and how they belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ftx import ModelError
from ftx.checkpoint_files import Checkpoint, read_json
from ftx_llava.checkpoint import NewProjector, Source
from ftx_llava.config import (
    TOWERS,
    WHOLE,
    Eyes,
    HuggingFace,
    Official,
    Projector,
    checked,
    language_values,
    native_config,
    tower_values,
)
from ftx_llava.layout import LEVEL
from ftx_llava.xtuner_config import XTunerConfig

LANGUAGE, TOWER, PROJECTOR = "llm_adapter", "visual_encoder", "projector"
TOWER_ADAPTER = "visual_encoder_adapter"
OFFICIAL_TOWER = "vision_tower"  # where ftx puts an official folder's tower, so that it stands alone
IN_OFFICIAL = "model.vision_tower.vision_tower."
OPTIONS = {"language_model": "language model", "vision_tower": "vision tower"}


@dataclass(frozen=True)
class Stored:
    """A LLaVA as it is stored.

    `text` and `vision` are the configs of language model and tower, `language` is the folder of tokenizer and language
    model, `tower` that with the preparation of pictures. `unread` are options that the folder leaves no use for.
    """

    folder: Path
    layout: str
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    eyes: Eyes
    sources: tuple[Source, ...]
    language: Path
    tower: Path
    unread: tuple[str, ...] = ()


class Options(NamedTuple):
    """Folders that the user names for parts that the model folder may lack."""

    language_model: Path | None
    vision_tower: Path | None


def open_stored(folder: Path, options: Options) -> Stored:
    """Find out what `folder` holds, from configs alone. Raises ModelError naming a part or option that is missing."""
    if not folder.is_dir():
        raise ModelError(f"model folder {folder} does not exist")
    if any((folder / name).is_dir() for name in (LANGUAGE, TOWER, TOWER_ADAPTER, PROJECTOR)):
        return _xtuner(folder, options)
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if "mm_vision_tower" in config or kind == "llava_llama":
        return _official(folder, config, options)
    if kind == "llava":
        return _huggingface(folder, config, options)
    return _new(folder, options)


def _huggingface(folder: Path, config: dict[str, Any], options: Options) -> Stored:
    where = str(folder / "config.json")
    whole = checked(HuggingFace, config, where)
    quantised = {key: config[key] for key in ("quantization_config",) if key in config}
    return Stored(
        folder=folder,
        layout="huggingface",
        text=language_values({"model_type": "llama", **whole.text_config, **quantised}, f"{where}: text_config"),
        vision=tower_values({"model_type": TOWERS[0], **whole.vision_config}, f"{where}: vision_config"),
        eyes=Eyes(
            whole.vision_feature_layer,
            whole.vision_feature_select_strategy,
            whole.projector_hidden_act,
            whole.multimodal_projector_bias,
        ),
        sources=(Source(Checkpoint.of(folder)),),
        language=folder,
        tower=folder,
        unread=_given(options, *OPTIONS),
    )


def _official(folder: Path, config: dict[str, Any], options: Options) -> Stored:
    where = str(folder / "config.json")
    if config.get("model_type") not in ("llava", "llava_llama"):
        raise ModelError(f"{where}: '{config.get('model_type')}' is no llava_llama, the official layout that ftx reads")
    whole = checked(Official, config, where)
    weights = Source(Checkpoint.of(folder))
    own = folder / OFFICIAL_TOWER
    tower = own if own.is_dir() else _named(folder, "vision_tower", options, whole.mm_vision_tower)
    values = read_json(tower / "config.json")
    beside = () if any(name.startswith(IN_OFFICIAL) for name in weights.tensors) else (_tower(tower, IN_OFFICIAL),)
    text = {key: value for key, value in config.items() if "mm_" not in key and not key.startswith("image_")}
    return Stored(
        folder=folder,
        layout="official",
        text=language_values({**text, "model_type": "llama"}, where),
        vision=tower_values(values, str(tower / "config.json")),
        eyes=Eyes(whole.mm_vision_select_layer, "default" if whole.mm_vision_select_feature == "patch" else "full"),
        sources=(weights, *beside),
        language=folder,
        tower=tower,
        unread=_given(options, "language_model", *(["vision_tower"] * own.is_dir())),
    )


def _xtuner(folder: Path, options: Options) -> Stored:
    says = XTunerConfig.of(folder)
    if not (folder / PROJECTOR).is_dir():
        raise ModelError(f"{folder} has no projector/: it is no whole LLaVA")
    own_language, own_tower = (folder / "config.json").is_file(), (folder / TOWER).is_dir()
    language_adapter, tower_adapter = (_adapter(folder / name) for name in (LANGUAGE, TOWER_ADAPTER))
    language = (
        folder if own_language else _named(folder, "language_model", options, language_adapter, says.language_model)
    )
    tower = folder / TOWER if own_tower else _named(folder, "vision_tower", options, tower_adapter, says.vision_tower)
    projector = checked(Projector, read_json(folder / PROJECTOR / "config.json"), f"{folder / PROJECTOR}/config.json")
    vision = tower_values(read_json(tower / "config.json"), str(tower / "config.json"))
    return Stored(
        folder=folder,
        layout="xtuner",
        text=_text(language),
        vision=vision,
        eyes=Eyes(says.select_layer, _select(vision), projector.hidden_act, projector.bias),
        sources=(
            Source(Checkpoint.of(language), adapter=language_adapter),
            _tower(tower, f"{TOWER}/", tower_adapter),
            Source(Checkpoint.of(folder / PROJECTOR), f"{PROJECTOR}/"),
        ),
        language=language,
        tower=tower,
        unread=_given(options, *(["language_model"] * own_language), *(["vision_tower"] * own_tower)),
    )


def _new(folder: Path, options: Options) -> Stored:
    """A language model and the tower that the user names, with a projector that begins anew."""
    text = _text(folder)
    tower = _named(folder, "vision_tower", options)
    vision = tower_values(read_json(tower / "config.json"), str(tower / "config.json"))
    eyes = Eyes(XTunerConfig().select_layer, _select(vision))
    whole = native_config(text, vision, eyes, str(folder))
    language = Source(Checkpoint.of(folder))
    projector = NewProjector(
        folder,
        ("model.safetensors",),
        vision_width=whole.vision_config.hidden_size,
        width=whole.text_config.hidden_size,
        dtype=next(iter(language.tensors.values())).dtype,
    )
    return Stored(
        folder=folder,
        layout="xtuner",
        text=text,
        vision=vision,
        eyes=eyes,
        sources=(language, _tower(tower, f"{TOWER}/"), Source(projector, f"{PROJECTOR}/")),
        language=folder,
        tower=tower,
        unread=_given(options, "language_model"),
    )


def _text(folder: Path) -> dict[str, Any]:
    return language_values(read_json(folder / "config.json"), str(folder / "config.json"))


def _tower(folder: Path, prefix: str, adapter: Path | None = None) -> Source:
    whole = read_json(folder / "config.json").get("model_type") in WHOLE
    return Source(Checkpoint.of(folder), prefix, LEVEL if whole else "", adapter)


def _select(vision: Mapping[str, Any]) -> Literal["default", "full"]:
    """XTuner's choice: CLIP's CLS is left out; SigLIP has none."""
    return "default" if vision["model_type"] == TOWERS[0] else "full"


def _adapter(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def _given(options: Options, *names: str) -> tuple[str, ...]:
    """Those of `names` that the user gave."""
    return tuple(name for name in names if getattr(options, name) is not None)


def _named(folder: Path, option: str, options: Options, *says: Path | str | None) -> Path:
    """The folder of a part: the user's, or the first that an adapter's folder or a file of `folder` names."""
    given = getattr(options, option)
    if given is not None:
        if not given.is_dir():
            raise ModelError(f"family.{option}: {given} is no folder")
        return Path(given)
    named = [name for one in says if (name := _adapter_base(one) if isinstance(one, Path) else one)]
    if not named:
        raise ModelError(
            f"{folder} holds no {OPTIONS[option]} and names none; give its folder with --set family.{option}=FOLDER"
        )
    places = [folder / name for name in named if (folder / name).is_dir()]
    if not places:
        raise ModelError(
            f"{folder} names '{named[0]}' as its {OPTIONS[option]}, which is no folder here; give it with "
            f"--set family.{option}=FOLDER"
        )
    return places[0]


def _adapter_base(folder: Path) -> str | None:
    named = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    return named if isinstance(named, str) else None
