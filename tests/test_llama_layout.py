"""InternLM2 written as a Llama: the same numbers, ids and answers, for tools that run no code from a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import FIXTURES, TINY, assert_same_bits, stored_tensors
from ftx.data.conversation import Message
from ftx.plan import family_template
from ftx_internlm2.family import InternLM2

IDS = torch.tensor([[1, 632, 453, 445, 272, 13, 421, 631, 13, 632, 442, 362, 342, 13]])
HOW: dict[str, Any] = {"dtype": torch.float32, "device": "cpu", "attention": "eager"}


def with_bias(folder: Path) -> Path:
    """The tiny model with a bias on wqkv and wo, which no released InternLM2 has and its config allows."""
    from safetensors.torch import save_file

    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "bias": True}), "utf-8")
    weights = stored_tensors(TINY)
    torch.manual_seed(0)
    biases = {
        name.replace(".weight", ".bias"): torch.randn(tensor.shape[0], dtype=tensor.dtype)
        for name, tensor in weights.items()
        if ".attention.w" in name
    }
    save_file({**weights, **biases}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("name", ["internlm2_base", "internlm2_dynamic", "with_bias"])
def test_plain_llama_gives_the_same_logits(name: str, ftx: Any, tmp_path: Path, no_gradients: None) -> None:
    from transformers import LlamaForCausalLM

    source = with_bias(tmp_path / name) if name == "with_bias" else FIXTURES / "golden" / name
    assert ftx("export", source, "--layout", "transformers", "--out", tmp_path / "llama").code == 0
    theirs = LlamaForCausalLM.from_pretrained(
        tmp_path / "llama", dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()
    ours = InternLM2().load(source, **HOW)
    assert torch.equal(theirs(IDS).logits, ours(IDS).logits)
    assert sum(t.numel() for t in stored_tensors(tmp_path / "llama").values()) == sum(
        t.numel() for t in stored_tensors(source).values()
    )


def test_tensors_that_are_only_renamed_keep_their_bits(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    assert ftx("export", tiny, "--layout", "transformers", "--out", tmp_path / "llama").code == 0
    layout = InternLM2().layout(tiny)
    expected = {k: v for name, tensor in stored_tensors(tiny).items() for k, v in layout.split(name, tensor).items()}
    assert_same_bits(stored_tensors(tmp_path / "llama"), expected)


def test_any_reader_gets_the_same_ids_without_code(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    assert ftx("export", tiny, "--layout", "transformers", "--out", tmp_path / "llama").code == 0
    assert not list((tmp_path / "llama").glob("*.py"))
    assert "auto_map" not in (tmp_path / "llama" / "tokenizer_config.json").read_text("utf-8")
    assert "auto_map" not in (tmp_path / "llama" / "config.json").read_text("utf-8")
    ours = InternLM2().tokenizer(tiny)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "llama", local_files_only=True)
    asked = family_template("internlm2_chat", ours, InternLM2(), tiny)
    prompt = asked.prompt([Message("system", "be brief"), Message("user", " 你好,  what is 1+1?\n")], ours)
    text = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n 你好,  what is 1+1?\n<|im_end|>\n"
    assert theirs.encode(text + "<|im_start|>assistant\n") == prompt
    assert theirs.decode(prompt) == ours.decode(prompt)


def test_a_run_s_result_is_sealed_anew_and_answers_alike(ftx: Any, rows: Path, tmp_path: Path) -> None:
    more = ["--method", "full", "--max-steps", 2, "--out", tmp_path / "run"]
    assert ftx("train", "--model", TINY, "--data", rows, *more).code == 0
    assert ftx("export", tmp_path / "run", "--layout", "transformers", "--out", tmp_path / "llama").code == 0
    assert json.loads((tmp_path / "llama" / "ftx.json").read_text("utf-8"))["plan"]["family"]["name"] == "transformers"
    asked = ["--once", "What is 3?", "--max-new-tokens", 12]
    before, after = ftx("chat", tmp_path / "run", *asked), ftx("chat", tmp_path / "llama", *asked)
    assert (after.code, after.out) == (0, before.out)
    assert (tmp_path / "llama" / "chat_template.jinja").read_bytes() == (
        tmp_path / "run" / "model" / "chat_template.jinja"
    ).read_bytes()
