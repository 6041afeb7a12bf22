"""InternLM2 against outputs recorded from the official code.

FTX_GOLDEN names another folder of cases. Every folder in it whose config.json says internlm2 and that holds a
golden.json is a case; one that cannot be read fails.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import assert_same_bits, stored_tensors
from ftx.data.tokens import Tokenizer
from ftx.export.weights import export_weights
from ftx_internlm2.family import InternLM2

GOLDEN = Path(os.environ.get("FTX_GOLDEN") or Path(__file__).parents[1] / "fixtures" / "golden")
FAMILY = InternLM2()


def _cases() -> list[Path]:
    return [folder for folder in sorted(GOLDEN.glob("*/")) if _is_case(folder)]


def _is_case(folder: Path) -> bool:
    """By its name, whatever it lacks; by its content, whatever its name."""
    if folder.name.startswith("internlm2"):
        return True
    config = folder / "config.json"
    recorded = config.is_file() and (folder / "golden.json").is_file()
    return recorded and json.loads(config.read_text("utf-8")).get("model_type") == "internlm2"


@dataclass
class Case:
    folder: Path
    model: Any
    tokenizer: Tokenizer
    values: dict[str, Any]
    tensors: dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=_cases(), ids=lambda folder: folder.name)
def case(request: pytest.FixtureRequest) -> Case:
    folder: Path = request.param
    FAMILY.inspect(folder)
    return Case(
        folder,
        FAMILY.load(folder, dtype=torch.float32, device="cpu", attention="eager"),
        FAMILY.tokenizer(folder),
        json.loads((folder / "golden.json").read_text("utf-8")),
        load_file(folder / "golden.safetensors"),
    )


def _nested(values: dict[str, Any], dotted: str) -> Any:
    """golden.json holds dotted keys, flat or nested."""
    if dotted in values:
        return values[dotted]
    head, _, rest = dotted.partition(".")
    return _nested(values[head], rest)


def test_there_are_cases() -> None:
    assert _cases(), f"no InternLM2 case in {GOLDEN}"


def test_single_row_logits_and_loss(case: Case) -> None:
    out = case.model(input_ids=case.tensors["single.input_ids"], labels=case.tensors["single.labels"])
    assert (out.logits - case.tensors["single.logits"]).abs().max() <= 1e-5
    assert abs(out.loss.item() - _nested(case.values, "single.loss")) <= 1e-6


def test_padded_batch(case: Case) -> None:
    mask = case.tensors["batch.attention_mask"]
    out = case.model(
        input_ids=case.tensors["batch.input_ids"], attention_mask=mask, labels=case.tensors["batch.labels"]
    )
    difference = (out.logits - case.tensors["batch.logits"]).abs()[mask.bool()]
    assert difference.max() <= 1e-5
    assert abs(out.loss.item() - _nested(case.values, "batch.loss")) <= 1e-6


def test_gradients(case: Case) -> None:
    case.model.zero_grad()
    case.model(input_ids=case.tensors["single.input_ids"], labels=case.tensors["single.labels"]).loss.backward()
    native = {name: parameter.grad for name, parameter in case.model.named_parameters()}
    layout = FAMILY.layout(case.folder)
    for name, norm in _nested(case.values, "single.grad_norms").items():
        joined = layout.join(name, native)
        assert joined.norm().item() == pytest.approx(norm, rel=1e-5), name
    recorded = case.tensors["single.grad.layer0_wqkv"]
    ours = layout.join("model.layers.0.attention.wqkv.weight", native)
    assert (ours - recorded).norm() <= 1e-5 * recorded.norm()


@pytest.mark.parametrize("cache", [True, False])
def test_greedy_ids(case: Case, cache: bool) -> None:
    prompt = torch.tensor([_nested(case.values, "greedy.prompt_ids")])
    expected = _nested(case.values, f"greedy.new_ids.use_cache_{cache}")
    out = case.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=len(expected),
        do_sample=False,
        use_cache=cache,
        eos_token_id=None,
    )
    assert out[0, prompt.shape[1] :].tolist() == expected


def test_tokenizer_equals_recorded_ids_and_text(case: Case) -> None:
    assert case.tokenizer.hf(_nested(case.values, "greedy.prompt")).input_ids == _nested(
        case.values, "greedy.prompt_ids"
    )
    assert case.tokenizer.decode(_nested(case.values, "greedy.new_ids.use_cache_True")) == _nested(
        case.values, "greedy.text"
    )


def test_long_row_and_short_row_after_it(case: Case) -> None:
    """A long row equals the official code; a short one afterwards is as if the long one had never been.

    The official dynamic rope keeps the base it enlarged for the long row, so its recorded short row differs from a
    fresh one. Ours depends on the row alone, on purpose.
    """
    if "long.input_ids" not in case.tensors:
        assert "long.loss" not in case.values
        return
    short = case.tensors["single.input_ids"][:, :16]
    fresh = case.model(input_ids=short).logits
    last = case.tensors["long.logits_last8"]
    long = case.model(input_ids=case.tensors["long.input_ids"]).logits[:, -last.shape[1] :]
    assert (long - last).abs().max() <= 1e-5
    assert torch.equal(case.model(input_ids=short).logits, fresh)


def test_export_is_the_source_bit_for_bit(case: Case, tmp_path: Path) -> None:
    export_weights(case.model.state_dict(), FAMILY, case.folder, tmp_path)
    assert_same_bits(stored_tensors(tmp_path), stored_tensors(case.folder))
