"""Checkpoints that XTuner 0.1.23 wrote, converted and merged to the bits that its own tools gave.

FTX_GOLDEN names another folder of cases: every .pth in it is read; every folder named hf is what pth_to_hf made of one
of them, every folder named ...merged what merging one of the adapters made of the base that its config names, and every
folder named official what convert_to_official made of the .pth beside it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import FIXTURES, recorded_folder, stored_tensors
from ftx import FtxError
from ftx.checkpoint_files import Checkpoint
from ftx.plugins import load_registry
from ftx_xtuner.adapter import adapter_tensors
from ftx_xtuner.merge import write_merged, xtuners_dtype
from ftx_xtuner.pth import load_tensors, read_pth
from ftx_xtuner.take_over import find, merge
from ftx_xtuner.trained import part_for, read_adapter

GOLDEN = Path(os.environ.get("FTX_GOLDEN") or FIXTURES / "golden")
CHECKPOINTS = sorted(GOLDEN.rglob("*.pth"))
ADAPTERS = sorted(path.parent for path in GOLDEN.rglob("adapter_config.json"))
CONVERTED = sorted(path for path in GOLDEN.glob("*/hf") if path in ADAPTERS)
MERGED = sorted(path for path in GOLDEN.glob("*/*merged") if (path / "config.json").is_file())
OFFICIAL = sorted(path for path in GOLDEN.glob("*/official") if list(path.parent.glob("*.pth")))


def name(path: Path) -> str:
    return str(path.relative_to(GOLDEN))


def recorded(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Same names, dtypes and bits."""
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor) for name, tensor in theirs.items()
    )


def base_of(named: str) -> Path:
    """Paths in recordings are those of the machine that recorded; the folder's name is what counts."""
    return recorded_folder(Path(named).name)


def test_there_are_cases() -> None:
    assert CHECKPOINTS
    assert ADAPTERS
    assert CONVERTED
    assert MERGED
    assert OFFICIAL


@pytest.mark.parametrize("path", CHECKPOINTS, ids=name)
def test_a_genuine_checkpoint_is_read(path: Path) -> None:
    checkpoint = read_pth(path)
    assert checkpoint.tensors
    assert checkpoint.step == int(path.stem.partition("_")[2])
    trained = path.parent / "adapter.safetensors"
    if trained.is_file():
        final = {n.removeprefix("final."): t for n, t in load_file(trained).items() if n.startswith("final.")}
        assert equal(checkpoint.tensors, final)


@pytest.mark.parametrize("folder", CONVERTED, ids=name)
def test_a_checkpoint_becomes_the_adapter_of_pth_to_hf(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    base, tensors = base_of(config["base_model_name_or_path"]), load_tensors(folder / "adapter_model.bin")
    scales = []
    for path in CHECKPOINTS:
        try:
            found = find(path, base, None, None)
        except FtxError:  # of another model
            continue
        if equal(adapter_tensors(found.trained, torch.float16), tensors):
            scales.append({factors.scale for factors in found.trained.factors.values()})
    assert {config["lora_alpha"] / config["r"]} in scales
    assert {name.split(".")[-3] for name in tensors} == set(config["target_modules"])


@pytest.mark.parametrize("folder", MERGED, ids=name)
def test_a_merged_model_is_that_of_convert_merge(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    base, theirs = Checkpoint.of(base_of(config["_name_or_path"])), stored_tensors(folder)
    same = []
    for adapter in ADAPTERS:
        trained = read_adapter(adapter, None)
        try:
            part_for({"adapter": trained}, base)
        except FtxError:  # of another model
            continue
        (out := tmp_path / str(len(same))).mkdir()
        write_merged(trained, base, out, xtuners_dtype(config["model_type"]))
        same.append(equal(stored_tensors(out), theirs))
    assert any(same)


@pytest.mark.parametrize("folder", [f for f in MERGED if (f.parent / "hf").is_dir() and f.name == "merged"], ids=name)
def test_the_adapter_of_a_merge_is_merged_whole(folder: Path, tmp_path: Path) -> None:
    """Straight from the converted adapter, config and all."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    found = find(folder.parent / "hf", base_of(config["_name_or_path"]), None, None)
    assert merge(found, tmp_path / "out", None, load_registry("none")) == config["torch_dtype"]
    assert equal(stored_tensors(tmp_path / "out"), stored_tensors(folder))
    assert recorded(tmp_path / "out") == recorded(folder)


@pytest.mark.parametrize("folder", OFFICIAL, ids=name)
def test_a_checkpoint_becomes_the_model_of_convert_to_official(folder: Path, tmp_path: Path) -> None:
    base = base_of(json.loads((folder.parent / "meta.json").read_text("utf-8"))["base"])
    for path in folder.parent.glob("*.pth"):
        found = find(path, base, folder.parent / "xtuner_config.py", None)
        assert merge(found, tmp_path / path.stem, None, load_registry("none")) == "bfloat16"
        assert equal(stored_tensors(tmp_path / path.stem), stored_tensors(folder))
        assert recorded(tmp_path / path.stem) == recorded(folder)
