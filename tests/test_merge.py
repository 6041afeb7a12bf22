"""Merging: exact arithmetic, the base's own layout and dtype, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import TINY, write_rows
from ftx.artifact import Artifact
from ftx.console import Console
from ftx.export.merge import Adapter, merge, merge_weights
from ftx.train.fit import fit
from ftx_internlm2.family import InternLM2
from test_train import plan_for

FAMILY = InternLM2()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished LoRA run on a copy of the tiny model."""
    folder = tmp_path_factory.mktemp("merge")
    shutil.copytree(TINY, folder / "base")
    data = write_rows(folder / "rows.jsonl", 12)
    fit(plan_for(folder / "base", data, folder / "run", train__max_steps=8))
    return folder / "run"


def test_merged_equals_unmerged(run: Path, tmp_path: Path) -> None:
    artifact = Artifact.open(run / "adapter")
    merged = merge(artifact, FAMILY, artifact.base, tmp_path / "merged", Console(quiet=True))
    from peft import PeftModel

    ids = torch.arange(5, 45)[None]
    plain = FAMILY.load(artifact.base, dtype=torch.float32, device="cpu", attention="eager")
    tuned = PeftModel.from_pretrained(plain, str(artifact.folder)).eval()(input_ids=ids).logits
    alone = FAMILY.load(merged.folder, dtype=torch.float32, device="cpu", attention="eager")(input_ids=ids).logits
    assert (tuned - alone).abs().max() < 1e-5
    assert merged.manifest["metrics"]["max_logit_difference"] < 1e-5


def test_merge_keeps_layout_and_untouched_tensors_bit_for_bit(run: Path, tmp_path: Path) -> None:
    artifact = Artifact.open(run / "adapter")
    merge_weights(
        Adapter.read(artifact.folder), FAMILY.layout(artifact.base), FAMILY.checkpoint(artifact.base), tmp_path
    )
    before = load_file(artifact.base / "model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in changed} == {"wqkv", "wo", "w1", "w2", "w3"}


def test_a_bfloat16_base_in_shards_stays_so(run: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    tensors = {name: t.to(torch.bfloat16) for name, t in load_file(base / "model.safetensors").items()}
    (base / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:10], names[10:]), 1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: tensors[name] for name in part}, base / file)
        weight_map |= dict.fromkeys(part, file)
    (base / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    out = tmp_path / "out"
    out.mkdir()
    merge_weights(Adapter.read(run / "adapter"), FAMILY.layout(base), FAMILY.checkpoint(base), out)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    for file in set(index["weight_map"].values()):
        assert {t.dtype for t in load_file(out / file).values()} == {torch.bfloat16}


def test_qlora_merges_into_the_base_in_its_own_precision(ftx: Any, tiny: Path, rows: Path, tmp_path: Path) -> None:
    flags = ["--model", tiny, "--data", rows, "--method", "qlora", "--max-steps", 4, "--out", tmp_path / "run"]
    assert ftx("train", *flags).code == 0
    assert ftx("merge", tmp_path / "run").code == 0
    assert {t.dtype for t in load_file(tmp_path / "run" / "merged" / "model.safetensors").values()} == {torch.float32}


def test_a_damaged_adapter_is_refused(ftx: Any, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    result = ftx("merge", tmp_path / "adapter")
    assert result.code == 7
    assert "changed after it was sealed" in result.err
    weights.unlink()
    assert ftx("merge", tmp_path / "adapter").code == 7
    (tmp_path / "adapter" / "ftx.json").write_text("{")
    assert ftx("merge", tmp_path / "adapter").code == 2


def test_a_manifest_cannot_name_files_outside(ftx: Any, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / "ftx.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../secret"] = {"size": 1, "sha256": "0"}
    path.write_text(json.dumps(manifest))
    assert "leaves the folder" in ftx("merge", tmp_path / "adapter").err


def test_another_base_or_an_existing_folder_is_refused(ftx: Any, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(TINY, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    result = ftx("merge", run, "--base", other, "--out", tmp_path / "out")
    assert result.code == 2
    assert "is not the base this adapter was trained on" in result.err
    assert "give --base" in ftx("merge", run, "--base", tmp_path / "gone").err
    (tmp_path / "out").mkdir()
    assert "exists already" in ftx("merge", run, "--out", tmp_path / "out").err
    assert "no finished run" in ftx("merge", tmp_path / "out").err


def test_a_wrong_merge_is_discarded(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: the factors' scale is lost."""
    from ftx.errors import VerificationError

    monkeypatch.setattr(Adapter, "delta", lambda self, name: 30 * self.factors[name][1] @ self.factors[name][0])
    artifact = Artifact.open(run / "adapter")
    with pytest.raises(VerificationError, match="logits differ") as caught:
        merge(artifact, FAMILY, artifact.base, tmp_path / "merged", Console(quiet=True))
    assert caught.value.exit_code == 7
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_on_the_head_merges_too(ftx: Any, tiny: Path, rows: Path, tmp_path: Path) -> None:
    flags = ["--model", tiny, "--data", rows, "--max-steps", 2, "--out", tmp_path / "run"]
    assert ftx("train", *flags, "--method", "lora", "--set", "method.targets=[q_proj, lm_head]").code == 0
    merged = ftx("merge", tmp_path / "run")
    assert merged.code == 0, merged.err
    before, after = (load_file(p / "model.safetensors") for p in (tiny, tmp_path / "run" / "merged"))
    assert not torch.equal(before["output.weight"], after["output.weight"])


def test_chat_refuses_another_base(ftx: Any, run: Path) -> None:
    other = TINY.parent / "internlm2_dynamic"
    assert "is not the base this adapter was trained on" in ftx("chat", run, "--base", other, "--once", "a").err


def test_one_shard_with_an_index_stays_readable(run: Path, tmp_path: Path) -> None:
    from ftx.checkpoint_files import Checkpoint

    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(TINY, base)
    out.mkdir()
    names = list(load_file(base / "model.safetensors"))
    (base / "model.safetensors").rename(base / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    merge_weights(Adapter.read(run / "adapter"), FAMILY.layout(base), FAMILY.checkpoint(base), out)
    assert Checkpoint.of(out).tensors.keys() == set(names)
