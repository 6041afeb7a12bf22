"""A folder that LMDeploy reads without remote code and prompts as the model was trained.

Two things would differ without it. LMDeploy's tokenizer puts BOS before a prompt that begins with BOS already, as most
chat templates write it; here the tokenizer adds none. And by the folder's name LMDeploy may take a template of its own
("vicuna" in a path does); here it is told to take the folder's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftx.artifact import COMPANIONS, MANIFEST, write_template
from ftx.atomic import hash_text, sha256_of, whole_folder, write_json
from ftx.checkpoint_files import TOKENIZER_FILES, read_json
from ftx.data.cache import alone, cache_root
from ftx.errors import ModelError
from ftx.export.opened import Whole

# Layouts that LMDeploy reads with transformers' own classes, the first that a family writes.
LAYOUTS = ("transformers", "huggingface")
LAYOUT = 1  # to be raised when the folder's files or their making change
CODE = "auto_map"


def prepared(whole: Whole) -> Path:
    """The folder, made once and kept in ftx's cache; weights are links where they need no other layout.

    Raises ModelError, StorageError.
    """
    sealed = whole.folder / MANIFEST
    identity = sha256_of(sealed) if sealed.is_file() else whole.family.fingerprint(whole.folder)
    files = [whole.folder / name for name in COMPANIONS]
    small = {path.name: sha256_of(path) for path in files if path.is_file()}
    key = [LAYOUT, str(whole.folder.resolve()), identity, small, whole.template.jinja(), whole.stop_ids]
    place = cache_root() / "lmdeploy" / hash_text(json.dumps(key))
    with alone(place):
        if not place.is_dir():
            with whole_folder(place) as folder:
                _fill(whole, folder)
    return place


def _fill(whole: Whole, folder: Path) -> None:
    layout = next((name for name in LAYOUTS if name in whole.family.layouts), None)
    if layout:
        whole.family.convert(whole.folder, layout, folder)
    else:
        _link(whole.folder, folder)
    if CODE in read_json(folder / "config.json"):
        raise ModelError(f"{whole.folder} needs remote code outside ftx, and family {whole.family.name} writes none")
    write_tokenizer(whole, folder)
    write_template(folder, whole.template.jinja(), whole.stop_ids)


def _link(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        if path.is_file() and path.name not in (*TOKENIZER_FILES, MANIFEST) and path.suffix != ".py":
            (folder / path.name).symlink_to(path.resolve())


def write_tokenizer(whole: Whole, folder: Path) -> None:
    """The tokenizer with all its words and nothing that it puts before a text: the template does that."""
    path = folder / "tokenizer.json"
    if not path.is_file():  # a layout may have brought words of its own, as for pictures
        whole.tokenizer.hf.save_pretrained(str(folder))
    stored: dict[str, Any] = read_json(path)
    write_json(path, {**stored, "post_processor": None})
    config = read_json(folder / "tokenizer_config.json")
    for gone in (CODE, "chat_template", "backend", "is_local", "local_files_only"):
        config.pop(gone, None)
    if isinstance(more := config.pop("extra_special_tokens", None), list):
        config["additional_special_tokens"] = more
    told = {"add_bos_token": False, "add_eos_token": False, "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", {**config, **told})


def is_awq(folder: Path) -> bool:
    """Whether the folder is a result of `ftx quantize`, or of LMDeploy's own."""
    if not (folder / "config.json").is_file():
        return False
    found = read_json(folder / "config.json").get("quantization_config")
    return isinstance(found, dict) and found.get("quant_method") == "awq"
