"""Mixtures of experts that transformers holds fused and stores one by one: tuned, merged and exported as stored."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import stored_tensors, write_rows
from ftx.checkpoint_files import Checkpoint
from ftx.export.merge import Adapter
from ftx.export.weights import export_weights
from ftx_transformers.family import Transformers
from test_natives import changed, make, tune_merge_ask

FAMILY = Transformers()
TOP_TWO = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
DEEPSEEK = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
FUSED: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {**TOP_TWO, "shared_expert_intermediate_size": 32},
    "qwen3_moe": {**TOP_TWO, "num_experts": 12},  # the tenth stands after the second
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v2": {**DEEPSEEK, **LATENT},
    "deepseek_v3": {**DEEPSEEK, **LATENT},
    "glm4_moe": DEEPSEEK,
    "gpt_oss": {"num_local_experts": 4, "sliding_window": 64},
}


@pytest.mark.parametrize("kind", FUSED)
def test_experts_are_tuned_around_merged_and_asked(kind: str, ftx: Any, tmp_path: Path) -> None:
    model = make(kind, tmp_path / kind, **FUSED[kind])
    flags = ["--model", model, "--data", write_rows(tmp_path / "rows.jsonl", 12), "--lr", 1e-2, "--max-length", 128]
    (plan,) = ftx("plan", *flags, "--json").events
    assert plan["family"] == {"name": "transformers"}
    assert any("are fused: lora and qlora leave them as they are" in note for note in plan["notes"])
    tune_merge_ask(ftx, flags, steps=4)
    before, after = stored_tensors(model), stored_tensors(Path("runs/rows-lora/merged"))
    adapter = Adapter.read(Path("runs/rows-lora/adapter"))
    assert before.keys() == after.keys()
    assert adapter.factors.keys() < before.keys()
    for name, tensor in before.items():
        expected = tensor + adapter.delta(name) if name in adapter.factors else tensor
        assert torch.equal(after[name], expected), name


def test_a_shared_expert_and_dense_layers_are_tuned(ftx: Any, tmp_path: Path) -> None:
    model = make("deepseek_v3", tmp_path / "model", **FUSED["deepseek_v3"])
    data = write_rows(tmp_path / "rows.jsonl", 4)
    flags = ["--model", model, "--data", data, "--max-length", 128, "--set", "method.dropout=0.1"]
    assert ftx("train", *flags, "--max-steps", 1).code == 0
    tuned = Adapter.read(Path("runs/rows-lora/adapter")).factors
    assert "model.layers.0.mlp.gate_proj.weight" in tuned
    assert "model.layers.1.mlp.shared_experts.down_proj.weight" in tuned
    assert not any("mlp.experts" in name for name in tuned)


def test_a_run_over_experts_goes_on_bit_for_bit(ftx: Any, tmp_path: Path) -> None:
    model = make("deepseek_v3", tmp_path / "model", **FUSED["deepseek_v3"])
    flags = ["--model", model, "--data", write_rows(tmp_path / "rows.jsonl", 8), "--max-length", 128, "--max-steps", 4]
    flags += [
        "--global-batch-size",
        2,
        "--out",
        "run",
        "--set",
        "train.save_every=2",
        "--set",
        "train.keep_checkpoints=4",
    ]
    assert ftx("train", *flags).code == 0
    whole = load_file("run/adapter/adapter_model.safetensors")
    shutil.rmtree("run/adapter")
    result = ftx("train", *flags, "--resume", "auto")
    assert result.code == 0, result.err
    again = load_file("run/adapter/adapter_model.safetensors")
    assert whole.keys() == again.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("kind", FUSED)
def test_what_was_not_changed_is_exported_bit_for_bit(kind: str, tmp_path: Path) -> None:
    model = make(kind, tmp_path / kind, **FUSED[kind])
    native = FAMILY.load(model, dtype=torch.float32, device="cpu", attention="sdpa")
    export_weights(native.state_dict(), FAMILY, model, tmp_path)
    before, after = stored_tensors(model), stored_tensors(tmp_path)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("options", [{"max_shard_size": "20KB"}, {"save_original_format": False}])
def test_other_ways_of_storing_are_kept_too(options: dict[str, Any], tmp_path: Path) -> None:
    """In shards that part the experts of a layer, and fused as transformers holds them."""
    model = make("qwen3_moe", tmp_path / "model", **FUSED["qwen3_moe"])
    native = FAMILY.load(model, dtype=torch.float32, device="cpu", attention="sdpa")
    (model / "model.safetensors").unlink()
    native.save_pretrained(model, **options)
    FAMILY.inspect(model)
    export_weights(native.state_dict(), FAMILY, model, tmp_path)
    before, after = stored_tensors(model), stored_tensors(tmp_path)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert len(Checkpoint.of(tmp_path).shards) == len(Checkpoint.of(model).shards)


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "deepseek_v2"])
def test_full_tuning_changes_experts_and_keeps_their_layout(kind: str, ftx: Any, tmp_path: Path) -> None:
    model = make(kind, tmp_path / kind, **FUSED[kind])
    save_file({name: tensor.bfloat16() for name, tensor in stored_tensors(model).items()}, model / "model.safetensors")
    data = write_rows(tmp_path / "rows.jsonl", 8)
    flags = ["--model", model, "--data", data, "--method", "full", "--max-length", 128, "--lr", 1e-2, "--json"]
    result = ftx("train", *flags, "--max-steps", 4, "--global-batch-size", 4)
    assert result.code == 0, result.err
    curve = [event["loss"] for event in result.events if event["event"] == "step"]
    assert curve[-1] < curve[0]
    before, after = stored_tensors(model), stored_tensors(Path("runs/rows-full/model"))
    assert {n: (t.shape, t.dtype) for n, t in before.items()} == {n: (t.shape, t.dtype) for n, t in after.items()}
    experts = [name for name in before if ".experts." in name]
    assert experts and all(not torch.equal(before[name], after[name]) for name in experts)
    assert ftx("chat", "runs/rows-full/model", "--once", "What is 1?", "--max-new-tokens", 4).code == 0


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe"])
def test_experts_are_tuned_around_over_four_bits(kind: str, ftx: Any, tmp_path: Path) -> None:
    model = make(kind, tmp_path / kind, **FUSED[kind])
    flags = ["--model", model, "--data", write_rows(tmp_path / "rows.jsonl", 4), "--max-length", 128]
    result = ftx("train", *flags, "--method", "qlora", "--max-steps", 1)
    assert result.code == 0, result.err
    assert ftx("merge", "runs/rows-qlora").code == 0


@pytest.mark.parametrize(
    ("target", "sentence"),
    [("gate", "Qwen3MoeTopKRouter() is not supported"), ("gate_up_proj", "'gate_up_proj' is no linear layer")],
)
def test_what_is_no_linear_layer_is_no_target(target: str, sentence: str, ftx: Any, tmp_path: Path) -> None:
    model = make("qwen3_moe", tmp_path / "model", **FUSED["qwen3_moe"])
    flags = ["--model", model, "--data", write_rows(tmp_path / "rows.jsonl", 2), "--max-length", 128]
    result = ftx("train", *flags, "--max-steps", 1, "--set", f"method.targets=[{target}]")
    assert result.code == 2
    assert sentence in " ".join(result.err.split())


EXPERT = "model.layers.1.mlp.experts.11.down_proj.weight"


def without(folder: Path, name: str) -> Path:
    save_file({n: t for n, t in stored_tensors(folder).items() if n != name}, folder / "model.safetensors")
    return folder


def with_(folder: Path, name: str, tensor: torch.Tensor) -> Path:
    save_file({**stored_tensors(folder), name: tensor}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda m: without(m, EXPERT),
            "down_proj is not whole: the 11 tensors stored of it (model.layers.1.mlp.experts.0",
        ),
        (
            lambda m: with_(m, EXPERT.replace("11", "12"), torch.zeros(32, 16)),
            "does not fit model.layers.1.mlp.experts",
        ),
        (lambda m: with_(m, EXPERT, torch.zeros(32, 8)), f"{EXPERT} of shape (32, 8) does not fit"),
        (lambda m: with_(m, EXPERT, torch.zeros(())), f"{EXPERT} of shape () does not fit"),
        (lambda m: with_(m, EXPERT.replace("down", "side"), torch.zeros(1)), "weights that a qwen3_moe has not: model"),
        (
            lambda m: changed(m, num_local_experts=13),
            "gate.weight has shape (12, 32), but config.json makes it (13, 32)",
        ),
        (lambda m: changed(m, moe_intermediate_size=8), "does not fit model.layers.0.mlp.experts"),
        (lambda m: changed(m, num_hidden_layers=3), "lacks 11 weights of a qwen3_moe: model.layers.2."),
    ],
)
def test_experts_that_do_not_fit_are_refused(spoil: Any, sentence: str, ftx: Any, tmp_path: Path) -> None:
    model = spoil(make("qwen3_moe", tmp_path / "model", **FUSED["qwen3_moe"]))
    result = ftx("plan", "--model", model, "--data", write_rows(tmp_path / "rows.jsonl", 2))
    assert result.code == 2
    assert sentence in " ".join(result.err.split())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_weights_without_use_are_carried_along(method: str, ftx: Any, tmp_path: Path) -> None:
    """DeepSeek-V3's layer 61 predicts a second token: transformers leaves it out, other programs do not."""
    draft = "model.layers.61.eh_proj.weight"
    model = with_(make("deepseek_v3", tmp_path / "m", **FUSED["deepseek_v3"]), draft, torch.rand(32, 64))
    flags = ["--model", model, "--data", write_rows(tmp_path / "rows.jsonl", 4), "--max-length", 128]
    (plan,) = ftx("plan", *flags, "--json").events
    assert f"1 weights that transformers has no use for are carried along: {draft}" in plan["notes"]
    assert ftx("train", *flags, "--method", method, "--max-steps", 1).code == 0
    out = Path("runs/rows-full/model")
    if method == "lora":
        assert ftx("merge", "runs/rows-lora").code == 0
        out = Path("runs/rows-lora/merged")
    assert torch.equal(stored_tensors(out)[draft], stored_tensors(model)[draft])
