"""Models that transformers has natively: found by their config, tuned, merged and asked like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from conftest import TINY, write_rows
from ftx.checkpoint_files import Checkpoint
from ftx.data.collate import collate
from ftx.data.store import Sample
from ftx.eval.heldout import loss_of
from ftx.fast import attention
from ftx.rope import turn_samples_apart
from ftx.train.apart import adopt, apart
from ftx_transformers.family import Transformers

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
    "gemma": {},
    "gemma2": {"sliding_window": 64},
    "gemma3_text": {"sliding_window": 64},
    "phi3": {},
    "glm": {},
    "glm4": {},
    "internlm3": {"qkv_bias": True, "bias": True},
    "gpt2": {},  # whose weights are stored [in, out]
}
KNOWN = [kind for kind in NATIVES if kind in CONFIG_MAPPING]  # transformers 5.17 has no InternLM3


def make(kind: str, folder: Path, **sizes: Any) -> Path:
    """A model with random weights and the tiny tokenizer."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**{**SIZES, **sizes})
    MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).save_pretrained(folder)
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        if (TINY / name).is_file():
            shutil.copyfile(TINY / name, folder / name)
    return folder


def tune_merge_ask(ftx: Any, flags: list[Any], steps: int) -> None:
    """The way of rows.jsonl by lora in the working folder, on which the loss falls."""
    result = ftx("train", *flags, "--max-steps", steps, "--global-batch-size", 4, "--json")
    assert result.code == 0, result.err
    curve = [event["loss"] for event in result.events if event["event"] == "step"]
    assert curve[-1] < curve[0]
    merged = ftx("merge", "runs/rows-lora", "--json")
    assert merged.code == 0, merged.err
    assert ftx("chat", "runs/rows-lora/merged", "--once", "What is 1?", "--max-new-tokens", 4).code == 0


@pytest.mark.parametrize("kind", KNOWN)
def test_a_native_model_is_found_tuned_merged_and_asked(kind: str, ftx: Any, tmp_path: Path) -> None:
    model = make(kind, tmp_path / kind, **NATIVES[kind])
    data = write_rows(tmp_path / "rows.jsonl", 12)
    flags = ["--model", model, "--data", data, "--lr", 1e-2, "--max-length", 128]
    (plan,) = ftx("plan", *flags, "--json").events
    assert plan["family"] == {"name": "transformers"}
    assert plan["model"]["parameters"] > 10_000
    tune_merge_ask(ftx, flags, steps=3)
    assert Checkpoint.of(Path("runs/rows-lora/merged")).tensors.keys() == Checkpoint.of(model).tensors.keys()


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_full_tuning_keeps_names_and_dtypes(kind: str, ftx: Any, tmp_path: Path) -> None:
    model = make(kind, tmp_path / kind, **NATIVES[kind])
    data = write_rows(tmp_path / "rows.jsonl", 8)
    result = ftx("train", "--model", model, "--data", data, "--method", "full", "--max-steps", 1, "--max-length", 128)
    assert result.code == 0, result.err
    before, after = Checkpoint.of(model).tensors, Checkpoint.of(Path("runs/rows-full/model")).tensors
    assert {n: (i.shape, i.dtype) for n, i in before.items()} == {n: (i.shape, i.dtype) for n, i in after.items()}
    assert (Path("runs/rows-full/model/config.json")).read_bytes() == (model / "config.json").read_bytes()


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_packed_samples_do_not_see_each_other_in_native_models_either(kind: str, ftx: Any, tmp_path: Path) -> None:
    model = make(kind, tmp_path / kind, **NATIVES[kind])
    data = write_rows(tmp_path / "rows.jsonl", 8)
    seen = []
    for packing in ("none", "best_fit"):
        flags = ["--model", model, "--data", data, "--packing", packing, "--max-steps", 1, "--max-length", 128]
        result = ftx("train", *flags, "--global-batch-size", 64, "--out", tmp_path / packing, "--json")
        seen.append(next(event["loss"] for event in result.events if event["event"] == "step"))
    assert seen[0] == pytest.approx(seen[1], abs=2e-6)


def seeded(kind: str, **sizes: Any) -> Any:
    """A model whose weights are large enough that what is seen shows, loaded as for training."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**{**SIZES, "use_cache": False, "initializer_range": 0.3, **sizes})
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()


ROUTED = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WINDOW = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}


@pytest.mark.parametrize(
    ("kind", "sizes", "within_bounds", "by_positions"),
    [
        ("llama", {}, True, True),
        ("mistral", {"sliding_window": 8}, True, True),
        ("qwen2", WINDOW, True, True),
        ("qwen3", WINDOW, True, True),
        ("gemma2", {"sliding_window": 8}, False, True),  # caps what attention scores
        ("gemma3_text", {"sliding_window": 8}, True, True),
        ("phi3", {"sliding_window": 8}, True, True),
        ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}, True, False),
        ("qwen2_moe", {**ROUTED, "shared_expert_intermediate_size": 32}, True, True),
        # Windows in masks alone.
        ("qwen2_moe", {**ROUTED, **WINDOW, "max_window_layers": 2, "shared_expert_intermediate_size": 32}, False, True),
        ("phimoe", {**ROUTED, "sliding_window": 8}, False, True),
        ("phimoe", {**ROUTED, "sliding_window": 64}, True, True),
        ("nemotron", {}, False, True),  # layers that swallow bounds
        ("doge", {"sliding_window": None, "keep_window_size": 8}, False, True),  # masks of its own
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, False, False),
        ("bloom", {"n_layer": 2, "n_head": 4}, False, False),
    ],
)
def test_samples_of_a_row_are_known_to_stay_apart(
    kind: str, sizes: dict[str, Any], within_bounds: bool, by_positions: bool
) -> None:
    model = seeded(kind, **sizes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert apart(model, torch.float32) == by_positions
    assert adopt(model, 64, torch.float32) == within_bounds
    assert (model.config._attn_implementation == attention.NAME) == within_bounds
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("llama", {"max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}),
        (
            "phi3",
            {
                "original_max_position_embeddings": 16,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0, 4.0, 6.0, 8.0],
                    "original_max_position_embeddings": 16,
                },
            },
        ),
        (
            "gemma3_text",
            {
                "max_position_embeddings": 16,
                "rope_parameters": {
                    "full_attention": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
                "layer_types": ["full_attention", "sliding_attention"],
            },
        ),
    ],
)
@torch.no_grad()
def test_a_short_sample_beside_a_long_one_is_turned_as_it_is_alone(kind: str, sizes: dict[str, Any]) -> None:
    samples = [Sample(np.arange(3, 3 + n, dtype=np.int32), np.ones(n, bool)) for n in (40, 5, 24)]
    alone = [
        seeded(kind, **sizes)(input_ids=torch.from_numpy(one.ids.astype("int64"))[None]).logits[0] for one in samples
    ]
    model = seeded(kind, **sizes)
    assert turn_samples_apart(model, 16) == 0
    assert turn_samples_apart(model, 64) == 1
    padded = model(**collate([[one] for one in samples], 2)).logits
    for row, expected in zip(padded, alone, strict=True):
        torch.testing.assert_close(row[: len(expected)], expected, atol=1e-4, rtol=1e-4)
    assert adopt(model, 64, torch.float32)
    for _ in range(2):  # what was met before leaves nothing behind
        found = model(**collate([samples], 2, end_to_end=True)).logits[0]
        torch.testing.assert_close(found, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_a_held_out_row_counts_alike_beside_a_long_one() -> None:
    """Under dynamic rope beyond the trained length, whatever shares the batch."""
    samples = [Sample(np.arange(3, 3 + n, dtype=np.int32), np.ones(n, bool)) for n in (40, 5, 24)]
    rope = {"max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}
    alone = [loss_of(seeded("llama", **rope), [one], 2) for one in samples]
    model = seeded("llama", **rope)
    for _ in range(2):
        together = loss_of(model, samples, 2)
        expected = sum(one.loss * one.tokens for one in alone) / together.tokens
        assert together.loss == pytest.approx(expected, rel=1e-5)


def test_packing_that_a_model_cannot_keep_apart_is_refused(ftx: Any, tmp_path: Path) -> None:
    model = make("lfm2", tmp_path / "lfm2", layer_types=["conv", "full_attention"])
    flags = ["--model", model, "--data", write_rows(tmp_path / "rows.jsonl", 8), "--max-length", 128]
    flags += ["--max-steps", 1, "--out", tmp_path / "run"]
    refused = ftx("train", *flags, "--packing", "best_fit")
    assert refused.code == 2
    assert "data.packing: in a packed row this model's samples would see each other" in refused.err
    assert ftx("train", *flags).code == 0


def test_a_native_model_is_tuned_over_four_bits(ftx: Any, tmp_path: Path) -> None:
    model = make("llama", tmp_path / "llama")
    flags = ["--model", model, "--data", write_rows(tmp_path / "rows.jsonl", 4), "--max-length", 128]
    assert ftx("train", *flags, "--method", "qlora", "--max-steps", 1).code == 0
    assert ftx("merge", "runs/rows-qlora").code == 0


def test_a_model_whose_weights_bitsandbytes_turns_is_not_tuned_over_four_bits(ftx: Any, tmp_path: Path) -> None:
    model = make("gpt2", tmp_path / "gpt2")
    data = write_rows(tmp_path / "rows.jsonl", 2)
    result = ftx("plan", "--model", model, "--data", data, "--method", "qlora", "--max-length", 128)
    assert result.code == 2
    assert "method: 'qlora' cannot give the weights of a GPT2LMHeadModel back; use lora" in result.err


def test_a_head_that_is_the_embedding_is_not_quantised(ftx: Any, tmp_path: Path) -> None:
    model = make("qwen2", tmp_path / "qwen2", tie_word_embeddings=True)
    flags = ["--method", "qlora", "--set", "method.quantize_head=true", "--max-length", 128]
    result = ftx("plan", "--model", model, "--data", write_rows(tmp_path / "rows.jsonl", 2), *flags)
    assert result.code == 2
    assert "method.quantize_head: the head is the embedding in this model; leave it out" in result.err


def test_nor_is_one_whose_file_holds_a_copy_of_it(ftx: Any, tmp_path: Path) -> None:
    model = make("qwen2", tmp_path / "qwen2", tie_word_embeddings=True)
    weights = load_file(model / "model.safetensors")
    copy = {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file({**weights, **copy}, model / "model.safetensors", {"format": "pt"})
    flags = ["--method", "qlora", "--set", "method.quantize_head=true", "--max-length", 128]
    result = ftx("train", "--model", model, "--data", write_rows(tmp_path / "rows.jsonl", 2), *flags)
    assert result.code == 2
    assert "method.quantize_head: the head is the embedding in this model; leave it out" in result.err


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


@pytest.mark.skipif("internlm3" not in KNOWN, reason="this transformers has no InternLM3")
def test_internlm3_is_read_by_its_official_config(ftx: Any, tmp_path: Path) -> None:
    """Official keys: the rope under `rope_scaling`, `bias` and `qkv_bias`, remote code that is not run."""
    model = make("internlm3", tmp_path / "internlm3")
    values = json.loads((model / "config.json").read_text("utf-8"))
    for key in ("rope_parameters", "attention_bias", "mlp_bias"):
        values.pop(key, None)
    values |= {"rope_scaling": {"factor": 6.0, "rope_type": "dynamic"}, "rope_theta": 50000000, "bias": False}
    values |= {"qkv_bias": False, "auto_map": {"AutoModelForCausalLM": "modeling_internlm3.InternLM3ForCausalLM"}}
    (model / "config.json").write_text(json.dumps(values), "utf-8")
    native = Transformers().load(model, dtype=torch.float32, device="cpu", attention="sdpa")
    assert native.config.rope_parameters == {"rope_type": "dynamic", "factor": 6.0, "rope_theta": 50000000}
    assert native.model.rotary_emb.rope_type == "dynamic"
    for keys, sentence in (
        ({"qkv_bias": True}, "`qkv_bias` different from `bias`"),
        ({"bias": True}, "lacks 14 weights"),
    ):
        result = ftx("plan", "--model", changed(model, **keys), "--data", write_rows(tmp_path / "rows.jsonl", 2))
        assert result.code == 2
        assert sentence in result.err


def test_template_and_stop_tokens_are_those_of_the_folder(ftx: Any, tmp_path: Path) -> None:
    model = make("glm4", tmp_path / "glm4")
    turns = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    (model / "chat_template.jinja").write_text(turns, "utf-8")
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 9]}), "utf-8")
    data = write_rows(tmp_path / "rows.jsonl", 2)
    (plan,) = ftx("plan", "--model", model, "--data", data, "--json").events
    assert {"name": "tokenizer", "stop": "</s>", "stop_ids": [2, 9]}.items() <= plan["template"].items()


def test_a_sentencepiece_model_begins_a_text_as_it_says(tmp_path: Path) -> None:
    """Llama's puts a space before it, InternLM2's does not; tokenizer.json is not there to say so."""
    from sentencepiece import SentencePieceProcessor

    from ftx.pretrained import load_tokenizer

    for folder in (TINY, TINY.parent / "llama_tiny"):
        sentencepiece = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        tokenizer = load_tokenizer(folder)
        for text in ("USER: hi", " two  spaces", "\nline", "你好"):
            ids = tokenizer.encode_text(text)
            assert ids == sentencepiece.encode(text), (folder.name, text)
            assert tokenizer.decode(ids) == text
