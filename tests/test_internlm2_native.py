"""InternLM2 exported as Llama: plain transformers computes the same, reads the same, and it comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import apart, assert_same_bits, recorded_folder, stored_tensors
from ftx_internlm2.family import InternLM2

FAMILY = InternLM2()
TEXTS = ["你好", " What  is\n1+1?", "<|im_end|>", "é😀"]


@pytest.mark.parametrize("name", ["internlm2_base", "internlm2_dynamic", "quickstart"])
def test_plain_transformers_computes_the_same(name: str, ftx: Any, tmp_path: Path, no_gradients: None) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    folder = Path("plugins/ftx_quickstart/base") if name == "quickstart" else recorded_folder(name)
    folder = folder if folder.is_absolute() else Path(__file__).parents[1] / folder
    out = tmp_path / "native"
    result = ftx("export", folder, "--layout", "transformers", "--out", out)
    assert result.code == 0, result.err
    theirs, info = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    assert type(theirs) is LlamaForCausalLM
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours = FAMILY.load(folder, dtype=torch.float32, device="cpu", attention="sdpa")
    row = torch.tensor([[1, 5, 17, 230, 9, 44, 8]])
    assert apart(ours(row).logits, theirs.eval()(row).logits) == 0

    tokenizer = AutoTokenizer.from_pretrained(out)
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == FAMILY.tokenizer(folder).hf(text)["input_ids"]
    assert json.loads((out / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_the_official_layout_is_copied_bit_for_bit(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    assert ftx("export", tiny, "--layout", "official", "--out", tmp_path / "same").code == 0
    assert_same_bits(stored_tensors(tmp_path / "same"), stored_tensors(tiny))
