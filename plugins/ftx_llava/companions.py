"""Configs, tokenizer and preparation of pictures beside the weights, so that a folder stands alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.artifact import copy_companions as copy_of_language_model
from ftx.atomic import write_json, write_text
from ftx.checkpoint_files import read_json
from ftx_llava.config import Projector, native_config
from ftx_llava.images import FILES
from ftx_llava.stored import OFFICIAL_TOWER, PROJECTOR, TOWER
from ftx_llava.xtuner_config import NAME, XTunerConfig

if TYPE_CHECKING:
    from ftx_llava.stored import Stored

CHAT = "chat_template.jinja"
ARCHITECTURES = {"clip_vision_model": "CLIPVisionModel", "siglip_vision_model": "SiglipVisionModel"}


def copy_companions(stored: Stored, out: Path) -> None:
    """Write into `out` all that the layout of `stored` has beside weights; no path in it leaves the folder."""
    copy_language(stored, out)
    if stored.layout == "xtuner":
        write_xtuner(stored, out)
    else:
        copy_files(stored.tower, out, *FILES)
    if stored.layout == "official":
        write_official_tower(stored, out)
        config = read_json(stored.folder / "config.json")
        named = str(config.get("mm_vision_tower", ""))
        # The name of a hub's repository is kept: other tools fetch it.
        if Path(named).is_absolute() or (stored.folder / named).is_dir():
            write_json(out / "config.json", {**config, "mm_vision_tower": OFFICIAL_TOWER})


def copy_language(stored: Stored, out: Path) -> None:
    """Config, tokenizer and generation config of the language model, or of the whole, as they are."""
    copy_of_language_model(stored.language, out)
    (out / NAME).unlink(missing_ok=True)  # names folders of the machine that it was written on
    copy_files(stored.language, out, CHAT)


def write_xtuner(stored: Stored, out: Path) -> None:
    """What XTuner's layout has in folders of their own, and a config that names nothing outside."""
    write_tower(stored, out / TOWER)
    (out / PROJECTOR).mkdir(exist_ok=True)
    if (stored.folder / PROJECTOR / "config.json").is_file():
        code = (path.name for path in stored.folder.glob(f"{PROJECTOR}/*.py"))
        copy_files(stored.folder / PROJECTOR, out / PROJECTOR, "config.json", *code)
    else:
        write_json(out / PROJECTOR / "config.json", projector_values(stored))
    write_text(out / NAME, XTunerConfig(".", TOWER, stored.eyes.layer).text())


def projector_values(stored: Stored) -> dict[str, Any]:
    """The projector's config.json in XTuner's layout."""
    config = native_config(stored.text, stored.vision, stored.eyes, str(stored.folder))
    values = Projector(
        visual_hidden_size=config.vision_config.hidden_size,
        llm_hidden_size=config.text_config.hidden_size,
        hidden_act=stored.eyes.act,
        bias=stored.eyes.bias,
    )
    return {"architectures": ["ProjectorModel"], **values.model_dump()}


def write_official_tower(stored: Stored, out: Path) -> None:
    """Config and preparation of the tower, which haotian-liu's layout has not in its own config.json."""
    write_tower(stored, out / OFFICIAL_TOWER)


def write_tower(stored: Stored, out: Path) -> None:
    """A tower's folder without its weights."""
    out.mkdir(exist_ok=True)
    values = {key: value for key, value in stored.vision.items() if key != "_name_or_path"}
    write_json(out / "config.json", {"architectures": [ARCHITECTURES[values["model_type"]]], **values})
    copy_files(stored.tower, out, *FILES)


def copy_files(folder: Path, out: Path, *names: str) -> None:
    """Copy those of the files that are there."""
    for name in names:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
