"""Models that transformers has natively: found by their config, tuned, merged and asked like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from conftest import TINY, write_rows
from ftx.checkpoint_files import Checkpoint

SIZES = {
    "vocab_size": 640,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
NATIVES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {},
    "mistral": {},
    "gemma2": {"sliding_window": 64},
    "phi3": {},
}


def make(kind: str, folder: Path) -> Path:
    """A model with random weights and the tiny tokenizer."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**SIZES, **NATIVES[kind])
    MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).save_pretrained(folder)
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        if (TINY / name).is_file():
            shutil.copyfile(TINY / name, folder / name)
    return folder


@pytest.mark.parametrize("kind", NATIVES)
def test_a_native_model_is_found_tuned_merged_and_asked(kind: str, ftx: Any, tmp_path: Path) -> None:
    model = make(kind, tmp_path / kind)
    data = write_rows(tmp_path / "rows.jsonl", 12)
    flags = ["--model", model, "--data", data, "--lr", 1e-2, "--max-length", 128]
    (plan,) = ftx("plan", *flags, "--json").events
    assert plan["family"] == {"name": "transformers"}
    assert plan["model"]["parameters"] > 10_000
    result = ftx("train", *flags, "--max-steps", 6, "--global-batch-size", 4, "--json")
    assert result.code == 0, result.err
    curve = [event["loss"] for event in result.events if event["event"] == "step"]
    assert curve[-1] < curve[0]
    merged = ftx("merge", "runs/rows-lora", "--json")
    assert merged.code == 0, merged.err
    assert ftx("chat", "runs/rows-lora/merged", "--once", "What is 1?", "--max-new-tokens", 4).code == 0
    assert Checkpoint.of(Path("runs/rows-lora/merged")).tensors.keys() == Checkpoint.of(model).tensors.keys()


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_full_tuning_keeps_names_and_dtypes(kind: str, ftx: Any, tmp_path: Path) -> None:
    model = make(kind, tmp_path / kind)
    data = write_rows(tmp_path / "rows.jsonl", 8)
    result = ftx("train", "--model", model, "--data", data, "--method", "full", "--max-steps", 1, "--max-length", 128)
    assert result.code == 0, result.err
    before, after = Checkpoint.of(model).tensors, Checkpoint.of(Path("runs/rows-full/model")).tensors
    assert {n: (i.shape, i.dtype) for n, i in before.items()} == {n: (i.shape, i.dtype) for n, i in after.items()}
    assert (Path("runs/rows-full/model/config.json")).read_bytes() == (model / "config.json").read_bytes()


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_packed_samples_do_not_see_each_other_in_native_models_either(kind: str, ftx: Any, tmp_path: Path) -> None:
    model = make(kind, tmp_path / kind)
    data = write_rows(tmp_path / "rows.jsonl", 8)
    seen = []
    for packing in ("none", "best_fit"):
        flags = ["--model", model, "--data", data, "--packing", packing, "--max-steps", 1, "--max-length", 128]
        result = ftx("train", *flags, "--global-batch-size", 64, "--out", tmp_path / packing, "--json")
        seen.append(next(event["loss"] for event in result.events if event["event"] == "step"))
    assert seen[0] == pytest.approx(seen[1], abs=2e-6)


def test_a_model_that_is_stored_otherwise_is_refused(ftx: Any, tmp_path: Path) -> None:
    """Experts are stored one by one and held fused."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING["mixtral"](**SIZES, num_local_experts=2)
    model = make("llama", tmp_path / "mixtral")
    MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).save_pretrained(model)
    result = ftx("plan", "--model", model, "--data", write_rows(tmp_path / "rows.jsonl", 2))
    assert result.code == 2
    assert "transformers holds a mixtral otherwise than it is stored" in result.err


def test_a_native_model_is_tuned_over_four_bits(ftx: Any, tmp_path: Path) -> None:
    model = make("llama", tmp_path / "llama")
    flags = ["--model", model, "--data", write_rows(tmp_path / "rows.jsonl", 4), "--max-length", 128]
    assert ftx("train", *flags, "--method", "qlora", "--max-steps", 1).code == 0
    assert ftx("merge", "runs/rows-qlora").code == 0


def changed(folder: Path, **values: Any) -> Path:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **values}), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"num_hidden_layers": 3}, "lacks 9 weights of a llama: model.layers.2."),
        ({"num_hidden_layers": 1}, "holds 9 weights that a llama has not: model.layers.1."),
        ({"intermediate_size": 96}, "but config.json makes it ("),
        ({"model_type": "nothing"}, "no plugin reads model_type 'nothing'"),
        ({"quantization_config": {"bits": 4}}, "is quantised; tune the model it was made from"),
        ({"hidden_size": "wide"}, "config.json"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(values: dict[str, Any], sentence: str, ftx: Any, tmp_path: Path) -> None:
    model = changed(make("llama", tmp_path / "llama"), **values)
    result = ftx("plan", "--model", model, "--data", write_rows(tmp_path / "rows.jsonl", 2))
    assert result.code == 2
    assert sentence in result.err


def test_targets_come_from_the_model(ftx: Any, tmp_path: Path) -> None:
    model = make("phi3", tmp_path / "phi3")
    data = write_rows(tmp_path / "rows.jsonl", 4)
    assert ftx("train", "--model", model, "--data", data, "--max-steps", 1, "--max-length", 128).code == 0
    targets = json.loads(Path("runs/rows-lora/adapter/adapter_config.json").read_text("utf-8"))["target_modules"]
    assert sorted(targets) == ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]
