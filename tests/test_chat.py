"""Chat: any form of a model, history, stops, pipes."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import TINY, chat
from ftx.errors import RecipeError
from ftx.talk import Sampling, Talk, open_talk
from ftx.train.fit import fit
from test_train import plan_for

ROWS = [chat("你好", "你好，我是小助手。"), chat("What colour is snow?", "Snow is white.")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full run that has learnt two answers by heart."""
    folder = tmp_path_factory.mktemp("chat")
    data = folder / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in ROWS), "utf-8")
    fit(plan_for(TINY, data, folder / "run", method="full", train__max_steps=60, train__lr=1e-2))
    return folder / "run"


def test_once_prints_the_answer_alone(ftx: Any, run: Path) -> None:
    result = ftx("chat", run, "--once", "What colour is snow?")
    assert (result.code, result.out) == (0, "Snow is white.\n")
    assert ftx("chat", run / "model", "--once", "你好").out == "你好，我是小助手。\n"


def test_json_says_whether_the_model_stopped(ftx: Any, run: Path) -> None:
    (answer,) = ftx("chat", run, "--once", "What colour is snow?", "--json").events
    assert answer["text"] == "Snow is white."
    assert answer["stopped"] is True
    (cut,) = ftx("chat", run, "--once", "What colour is snow?", "--json", "--max-new-tokens", 2).events
    assert (cut["stopped"], cut["tokens"]) == (False, 2)


def test_a_cut_answer_is_said(ftx: Any, run: Path) -> None:
    assert "cut off after 2 tokens" in ftx("chat", run, "--once", "你好", "--max-new-tokens", 2).err


def test_a_pipe_answers_line_by_line(ftx: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "你好\n\n/reset\nWhat colour is snow?\n/what\n/exit\n你好\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    result = ftx("chat", run)
    assert result.code == 0
    assert result.out == "你好，我是小助手。\nSnow is white.\n"
    assert "no command /what" in result.err


def test_history_reaches_the_model_and_reset_forgets_it(run: Path) -> None:
    from ftx.plugins import load_registry

    talk = open_talk(run, load_registry("none"))
    seen: list[list[int]] = []
    answer = talk.answer
    talk.answer = lambda said, *rest: (seen.append(talk.inputs(said)[0]), answer(said, *rest))[1]  # type: ignore[method-assign]
    for question in ("你好", "你好"):
        talk.ask(question, Sampling())
    assert len(talk.history) == 4
    assert talk.tokenizer.decode(seen[1]).count("<|im_start|>") == 4
    talk.reset()
    talk.ask("你好", Sampling())
    assert seen[2] == seen[0]


def test_streamed_pieces_make_the_answer(run: Path) -> None:
    from ftx.plugins import load_registry

    shown: list[str] = []
    answer = open_talk(run, load_registry("none")).ask("你好", Sampling(), shown.append)
    assert "".join(shown) == answer.text
    assert len(shown) > 3
    assert not any("\ufffd" in piece for piece in shown)


def test_a_base_and_an_adapter_talk_too(ftx: Any, tiny: Path, rows: Path, tmp_path: Path) -> None:
    assert ftx("chat", tiny, "--once", "你好", "--max-new-tokens", 4).code == 0
    ftx("train", "--model", tiny, "--data", rows, "--max-steps", 1, "--out", tmp_path / "run")
    by_run = ftx("chat", tmp_path / "run", "--once", "你好", "--max-new-tokens", 4)
    by_adapter = ftx("chat", tmp_path / "run" / "adapter", "--base", tiny, "--once", "你好", "--max-new-tokens", 4)
    assert by_run.code == by_adapter.code == 0
    assert by_run.out == by_adapter.out


def test_the_trained_template_is_never_asked_for_again(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    """Trained on `default`, the trap of tutorial 000: chat uses it without being told."""
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in ROWS), "utf-8")
    more = ["--max-steps", 60, "--lr", "1e-2", "--out", tmp_path / "run"]
    assert ftx("train", "--model", tiny, "--data", data, "--method", "full", "--template", "default", *more).code == 0
    assert ftx("chat", tmp_path / "run", "--once", "What colour is snow?").out == "Snow is white.\n"


def test_sampling_is_seeded(ftx: Any, tiny: Path) -> None:
    flags = ["--once", "你好", "--max-new-tokens", 8, "--temperature", 1.5]
    first = ftx("chat", tiny, *flags, "--seed", 1).out
    assert ftx("chat", tiny, *flags, "--seed", 1).out == first
    assert ftx("chat", tiny, *flags, "--seed", 2).out != first


@pytest.mark.parametrize(
    "option",
    [
        ("--seed", "99999999999999999999999"),
        ("--temperature", "nan"),
        ("--temperature", "inf"),
        ("--top-p", "nan"),
    ],
)
def test_a_number_that_is_none_is_refused(option: tuple[str, str], ftx: Any, tiny: Path) -> None:
    result = ftx("chat", tiny, "--once", "hi", *option)
    assert result.code == 2
    assert option[0] in result.err


def test_the_coldest_temperature_is_greedy(ftx: Any, tiny: Path) -> None:
    asked = ("chat", tiny, "--once", "hi", "--max-new-tokens", 8)
    assert ftx(*asked, "--temperature", "1e-40").out == ftx(*asked).out


def test_an_answer_ends_with_the_context(tiny: Path) -> None:
    from ftx.plugins import load_registry

    talk = open_talk(tiny, load_registry("none"))
    talk.stop_ids = []
    talk.max_positions = len(talk.prompt([talk.question("hi", ())])) + 3
    assert talk.ask("hi", Sampling(60)).tokens == 3
    with pytest.raises(RecipeError, match="of which the answer needs some"):
        talk.ask("hi", Sampling(60))
    assert len(talk.history) == 2


def test_a_template_without_a_place_for_a_system_text_says_so(
    ftx: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    (base / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    asked = ("chat", base, "--max-new-tokens", 2)
    result = ftx(*asked, "--once", "hi", "--system", "Be kind.")
    assert (result.code, "no system messages" in result.err) == (2, True)
    monkeypatch.setattr("sys.stdin", io.StringIO("/system Be kind.\nhi\n"))
    assert ftx(*asked).code == 2


def test_what_is_no_model_is_refused(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    assert ftx("chat", tmp_path / "none").code == 2
    assert "no config.json" in ftx("chat", tmp_path).err
    shutil.copytree(tiny, tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "gpt9"}')
    assert "no plugin reads model_type 'gpt9'" in ftx("chat", tmp_path / "m").err


@pytest.mark.parametrize("question", ["\udcff", "a\x00b"])
def test_a_question_that_is_no_text_is_refused(question: str, ftx: Any, run: Path) -> None:
    """A byte that is no UTF-8 arrives from a shell as half a character."""
    result = ftx("chat", run, "--once", question)
    assert result.code == 2
    assert "ask in whole UTF-8" in result.err


def test_a_question_of_100_000_characters_is_refused(ftx: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "What is 3? " * 9_091
    result = ftx("chat", run, "--once", long)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "and the model's context 2,048, of which the answer needs some" in result.err


def test_who_sits_there_asks_again_after_a_refusal(ftx: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(f"{'a ' * 50_000}\nWhat is 3?\n"))
    result = ftx("chat", run)
    assert (result.code, "shorten it, or begin anew" in " ".join(result.err.split())) == (0, True)
    assert result.out


def test_memory_that_ends_is_said(ftx: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(Talk, "answer", full)
    result = ftx("chat", run, "--once", "What is 3?")
    assert (result.code, result.err) == (4, "ftx: there is not enough memory for this model\n")


@pytest.mark.parametrize("content", ["{broken", "[]", "{}", '{"base_model_name_or_path": 3}'])
def test_an_adapter_that_names_no_base_is_refused(content: str, ftx: Any, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(content, "utf-8")
    result = ftx("chat", tmp_path / "adapter", "--once", "a")
    assert result.code == 2
    assert "adapter" in result.err


@pytest.mark.parametrize(
    "broken",
    [{"kind": "thing"}, {"plan": None}, {"plan": {"template": {}}}, {"base": {}}, {"files": 3}, {"kind": ["adapter"]}],
)
def test_a_manifest_that_is_none_is_refused(broken: dict[str, Any], ftx: Any, tmp_path: Path) -> None:
    whole = {"kind": "adapter", "base": {"path": "x"}, "plan": {"template": {"name": "default"}}, "files": {}}
    (tmp_path / "ftx.json").write_text(json.dumps({**whole, **broken}), "utf-8")
    for command in (("chat", tmp_path, "--once", "a"), ("merge", tmp_path)):
        result = ftx(*command)
        assert (result.code, "ftx.json cannot be read" in result.err) == (2, True)
