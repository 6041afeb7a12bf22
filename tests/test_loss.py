"""The loss of labelled positions alone is the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from conftest import TINY
from ftx.data.template import IGNORE
from ftx.train.loss import asked, loss_sum
from ftx_internlm2.family import InternLM2
from ftx_transformers.family import Transformers
from test_natives import make

KINDS = ("internlm2", "qwen2", "gemma2", "lora on the head")


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Plain, with a tied head, with capped logits, and with an adapter on the head."""
    given: dict[str, Any] = {"dtype": torch.float32, "device": "cpu", "attention": "eager"}
    if request.param in ("qwen2", "gemma2"):
        return Transformers().load(make(request.param, tmp_path / "model"), **given).train()
    found = InternLM2().load(TINY, **given).train()
    if request.param == "internlm2":
        return found
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(found, config)


def batch() -> dict[str, torch.Tensor]:
    """Three rows with few labels, one of them on the last token, one row with none."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 600, (3, 12), generator=generator)
    labels = torch.full_like(ids, IGNORE)
    labels[0, 3:6], labels[1, -1] = ids[0, 3:6], ids[1, -1]
    labels[0, 0] = ids[0, 0]  # nothing predicts the first
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def ours_of(model: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    rest = {name: tensor for name, tensor in given.items() if name != "labels"}
    return loss_sum(model, {**rest, **asked(given["labels"])})


def plain(model: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
    found = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).double(), given["labels"][:, 1:].flatten(), ignore_index=IGNORE, reduction="sum"
    )
    assert isinstance(found, torch.Tensor)
    return found


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_are_those_of_all_logits(model: Any) -> None:
    given = batch()
    ours, theirs = ours_of(model, given), plain(model, given)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    one, two = gradients(model, ours), gradients(model, theirs)
    assert one.keys() == two.keys()
    for name, gradient in two.items():
        assert float((one[name] - gradient).abs().max()) <= 1e-5 * float(gradient.abs().max()), name


def test_only_labelled_positions_meet_the_head(model: Any) -> None:
    seen = []
    head = model.get_output_embeddings()
    watch = head.register_forward_hook(lambda module, given, out: seen.append(tuple(out.shape)))
    ours_of(model, batch())
    watch.remove()
    assert [shape[:2] for shape in seen] == [(1, 4)]
    assert model(input_ids=batch()["input_ids"]).logits.shape[:2] == (3, 12)
