"""The model of an app, in a layout that transformers reads without remote code, with its template and stop ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ftx.artifact import Artifact
from ftx.atomic import write_json, write_text
from ftx.checkpoint_files import read_json
from ftx.contracts import AppModel, ModelFamily
from ftx.errors import ModelError
from ftx.export.weights import write_shards
from ftx.pretrained import write_tokenizer

if TYPE_CHECKING:
    from ftx.talk import Talk

LAYOUTS = ("transformers", "huggingface")  # names of families' layouts that transformers reads


def write_model(source: Path, family: ModelFamily, talk: Talk, out: Path) -> None:
    """Write the model of `source` into `out`. Raises ModelError when it has no native layout or no stop token."""
    if not talk.stop_ids:
        raise ModelError(
            f"{source} has no stop token, neither in its template nor in generation_config.json: an app's answers "
            "would never end; train it with a template that has one (ftx train --template NAME)"
        )
    native = next((layout for layout in LAYOUTS if layout in family.layouts), None)
    out.mkdir()
    if native is not None:
        family.convert(source, native, out)
    elif family.name in LAYOUTS:
        _copy(source, family, out)
    else:
        raise ModelError(f"{source}: family {family.name} has no layout that transformers reads without remote code")
    _without_code(out)
    write_text(out / "chat_template.jinja", talk.template.jinja())
    path = out / "generation_config.json"
    config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    write_json(path, {**config, "eos_token_id": talk.stop_ids})


def _copy(source: Path, family: ModelFamily, out: Path) -> None:
    checkpoint = family.checkpoint(source)
    write_shards(checkpoint, out, checkpoint.reader())
    family.copy_companions(source, out)
    write_tokenizer(family.tokenizer(source), out)


def _without_code(out: Path) -> None:
    for path in out.glob("*.py"):
        path.unlink()
    config = read_json(out / "config.json")
    if config.pop("auto_map", None):
        write_json(out / "config.json", config)


def described(folder: Path, artifact: Artifact | None, source: Path) -> AppModel:
    """What a template needs to know of the model in `folder`, which came from `source`."""
    config = read_json(folder / "config.json")
    cards = [source / "README.md", *([artifact.base / "README.md"] if artifact else [])]
    licenses = (_license(card) for card in cards if card.is_file())
    return AppModel(
        folder,
        str(config.get("model_type")),
        "vision_config" in config,
        next((found for found in licenses if found), None),
    )


def _license(card: Path) -> str | None:
    """The licence in the front matter of a model card, None when it names none."""
    text = card.read_text("utf-8", "replace")
    if not text.startswith("---\n"):
        return None
    try:
        front: Any = yaml.safe_load(text.split("\n---", 1)[0].removeprefix("---\n"))
    except yaml.YAMLError:
        return None
    named = front.get("license") if isinstance(front, dict) else None
    return named if isinstance(named, str) else None
