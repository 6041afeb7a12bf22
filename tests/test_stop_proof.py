"""The stop token: one token, learnt with every answer, known to generation. Each planted fault is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import TINY, chat, write_rows
from ftx import RecipeError
from ftx.data.load import prepare
from ftx.data.named import NamedTemplate, named_templates
from ftx.data.samples import Preparation
from ftx.data.sets import open_set
from ftx.data.template import Piece
from ftx.plugins import load_registry
from ftx_internlm2.family import InternLM2
from ftx_sources.files import Files

INTERNLM2_CHAT = named_templates()["internlm2_chat"]


class Forgetful(NamedTemplate):
    """Ends answers with a stop token that is not learnt, as templates of other tools do."""

    def pieces(self, *args: Any, **more: Any) -> Iterator[Piece]:
        for piece in super().pieces(*args, **more):
            yield replace(piece, loss=False) if piece.text == self.suffix else piece


def test_an_unlabelled_stop_token_refuses_the_run(rows: Path) -> None:
    how = Preparation(Forgetful(**vars(INTERNLM2_CHAT)), InternLM2().tokenizer(TINY), 256)
    one = open_set(Files(path=str(rows)), "auto", None, load_registry("none"))
    with pytest.raises(RecipeError, match=r"leaves an answer without its labelled stop token '<\|im_end\|>'"):
        prepare([one], how, {})
    assert prepare([one], replace(how, template=INTERNLM2_CHAT), {}).ledger.answers == 12


def test_a_stop_token_of_several_tokens_refuses_the_run(ftx: Any, tiny: Path, rows: Path) -> None:
    result = ftx("train", "--model", tiny, "--data", rows, "--template", "internlm_chat")
    assert result.code == 2
    assert "'<eoa>', which is not one special token of this tokenizer; choose a template" in result.err
    assert not Path("runs").exists()


def test_a_tokenizer_without_an_end_of_text_refuses_templates_that_need_it(
    ftx: Any, tiny: Path, rows: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        config = json.loads((model / name).read_text("utf-8"))
        config.pop("eos_token", None)
        config["eos_token"] = None
        (model / name).write_text(json.dumps(config), "utf-8")
    assert InternLM2().tokenizer(model).eos_ids == set()
    result = ftx("plan", "--model", model, "--data", rows, "--template", "default")
    assert (result.code, "this tokenizer has no eos_token" in result.err) == (2, True)
    assert ftx("plan", "--model", model, "--data", rows, "--template", "internlm2_chat").code == 0


def test_an_answer_that_a_template_ends_otherwise_is_rejected(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    config = json.loads((model / "tokenizer_config.json").read_text("utf-8"))
    config["chat_template"] = (
        "{% for m in messages %}{{ m['content'] }}{% if loop.last %}</s>{% else %}\n{% endif %}{% endfor %}"
    )
    (model / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    two = {"messages": chat("a", "b")["messages"] * 2}
    (tmp_path / "rows.jsonl").write_text(json.dumps(chat("a", "b")) + "\n" + json.dumps(two), "utf-8")
    result = ftx("plan", "--model", model, "--data", "rows.jsonl")
    assert result.code == 3
    assert "rows.jsonl: row 2: the chat template ends this answer with no stop token; name another" in result.err


def test_the_plan_tells_what_was_proven(ftx: Any, tiny: Path, rows: Path) -> None:
    (event,) = ftx("plan", "--model", tiny, "--data", rows, "--template", "default", "--json").events
    assert event["template"]["proven_answers"] == 12
    assert event["template"]["stop"] == "</s>"
    assert 2 in event["template"]["stop_ids"]
    assert "takes the place of the tokenizer's own" in " ".join(event["notes"])


def test_a_model_is_asked_with_the_template_it_was_trained_with(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    """Tutorial 000 trains on `default` and chats with `internlm2_chat`: the answers never end."""
    data = write_rows(tmp_path / "rows.jsonl", 12)
    assert ftx("train", "--model", tiny, "--data", data, "--template", "default", "--max-steps", 1).code == 0
    ask = ["chat", "runs/rows-lora", "--once", "What is 1?", "--max-new-tokens", 4]
    assert ftx(*ask).code == 0
    assert ftx(*ask, "--template", "default").code == 0
    refused = ftx(*ask, "--template", "internlm2_chat")
    assert refused.code == 2
    assert "was trained with template 'default' and has not learnt to stop with 'internlm2_chat'" in refused.err
    assert ftx(*ask, "--template", "internlm2_chat", "--other-template").code == 0
    assert ftx("merge", "runs/rows-lora").code == 0
    merged = ["chat", "runs/rows-lora/../rows-lora/merged", *ask[2:], "--template", "internlm2_chat"]
    assert ftx(*merged).code == 2


def test_system_texts_by_name(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 2)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"model: {tiny}\ndata: {{sets: [{{path: rows.jsonl, system_template: coder}}]}}\n", "utf-8")
    (event,) = ftx("plan", recipe, "--json").events
    assert event["data"]["sets"][0]["system"].startswith("You are a professional programer.")
    recipe.write_text(recipe.read_text("utf-8").replace("coder", "codr"), "utf-8")
    result = ftx("plan", recipe)
    assert (result.code, result.err) == (2, "ftx: system_template: 'codr' is not known; did you mean 'coder'?\n")


def test_a_stop_token_typed_into_an_answer_is_rejected_where_it_would_count(
    ftx: Any, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(chat("a", "b<|im_end|>c")) + "\n", "utf-8")
    flags = ["--model", tiny, "--data", "rows.jsonl"]
    assert ftx("plan", *flags).code == 0
    result = ftx("plan", *flags, "--set", "data.typed_specials=true")
    assert result.code == 3
    assert "an answer holds the stop token '<|im_end|>' within" in result.err
