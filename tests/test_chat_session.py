"""Chat: saved conversations, system texts, stop words, few bits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import ftx_quickstart
from conftest import TINY
from ftx.answer_text import before_stop_word, may_begin_stop_word
from ftx.plugins import load_registry
from ftx.talk import Sampling, open_talk
from ftx.train.fit import fit
from test_chat import ROWS
from test_train import plan_for


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full run that has learnt two answers by heart."""
    folder = tmp_path_factory.mktemp("heart")
    data = folder / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in ROWS), "utf-8")
    fit(plan_for(TINY, data, folder / "run", method="full", train__max_steps=60, train__lr=1e-2))
    return folder / "run"


def say(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_a_saved_conversation_is_trained_on(ftx: Any, heart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, "你好", "/save talk.jsonl", "/reset", "What colour is snow?", "/save talk.jsonl")
    assert ftx("chat", heart, "--system", "Be kind.").code == 0
    rows = [json.loads(line) for line in Path("talk.jsonl").read_text("utf-8").splitlines()]
    assert [row["messages"][1]["content"] for row in rows] == ["你好", "What colour is snow?"]
    assert rows[1]["messages"][0] == {"role": "system", "content": "Be kind."}
    assert rows[1]["messages"][2]["role"] == "assistant"
    assert not list(Path().glob(".talk*"))
    assert (
        ftx("train", "--model", heart / "model", "--data", "talk.jsonl", "--max-steps", 1, "--out", "again").code == 0
    )


def test_save_says_what_is_wrong_and_the_chat_goes_on(
    ftx: Any,
    heart: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("binary.jsonl").write_bytes(b"\xff\xfe")
    wrong = ("/save talk.txt", "/save none/talk.jsonl", "/save binary.jsonl", "/save")
    say(monkeypatch, "/save talk.jsonl", "你好", *wrong, "What colour is snow?")
    result = ftx("chat", heart, "--json")
    told = [event["message"] for event in result.events if event["event"] == "warning"]
    assert "nothing was said yet" in told[0]
    assert "name a .jsonl file" in told[1]
    assert "there is no folder none" in told[2]
    assert "no file of rows" in told[3]
    assert "no command /save" in told[4]
    assert [event["event"] for event in result.events].count("answer") == 2
    assert Path("binary.jsonl").read_bytes() == b"\xff\xfe"
    assert not Path("talk.jsonl").exists()


def test_a_system_text_is_set_and_taken_back(
    ftx: Any,
    heart: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    say(monkeypatch, "/system Be kind.", "你好", "/save a.jsonl", "/system", "/save b.jsonl")
    assert ftx("chat", heart).code == 0
    saved = [json.loads(Path(name).read_text("utf-8"))["messages"][0]["role"] for name in ("a.jsonl", "b.jsonl")]
    assert saved == ["system", "user"]


def test_a_stop_word_ends_the_answer_and_is_not_shown(ftx: Any, heart: Path) -> None:
    stopped = ftx("chat", heart, "--once", "What colour is snow?", "--stop", " white", "--stop", "zzz")
    assert (stopped.code, stopped.out) == (0, "Snow is\n")
    assert "cut off" not in stopped.err
    (answer,) = ftx("chat", heart, "--once", "你好", "--stop", "小助手", "--json").events
    assert (answer["text"], answer["stopped"], answer["word"]) == ("你好，我是", True, "小助手")
    whole = ftx("chat", heart, "--once", "What colour is snow?", "--stop", "zzz")
    assert whole.out == "Snow is white.\n"
    assert "--stop: a stop word is empty" in ftx("chat", heart, "--once", "a", "--stop", "").err


def test_no_beginning_of_a_stop_word_is_shown_early(heart: Path) -> None:
    shown: list[str] = []
    talk = open_talk(heart, load_registry("none"))
    answer = talk.ask("What colour is snow?", Sampling(stop=("is white!",)), shown.append)
    assert "".join(shown) == answer.text == "Snow is white."
    assert not any(piece.endswith("is white") for piece in shown)


def test_the_first_of_several_words_cuts() -> None:
    words = ("END", "ND", "###")
    assert before_stop_word("a END b ###", words) == ("a ", "END")
    assert before_stop_word("a b", words) == ("a b", None)
    assert may_begin_stop_word("text ##", words) == 2
    assert may_begin_stop_word("text #E", words) == 1
    assert may_begin_stop_word("text #", ()) == 0


QUICKSTART = Path(ftx_quickstart.__file__).with_name("base")


@pytest.mark.parametrize("bits", ["4", "8"])
def test_few_bits_answer_as_all_of_them(bits: str, ftx: Any) -> None:
    asked = ["--once", "What is the capital of France?", "--max-new-tokens", 24]
    whole = ftx("chat", QUICKSTART, *asked)
    few = ftx("chat", QUICKSTART, *asked, "--bits", bits)
    assert (few.code, few.out) == (0, whole.out)
    talk = open_talk(QUICKSTART, load_registry("none"), bits=int(bits), device="cpu")
    assert type(talk.model.model.layers[0].mlp.up_proj).__name__ == {"4": "Linear4bit", "8": "Linear8bitLt"}[bits]


def test_four_bits_of_a_narrow_model_are_refused(ftx: Any, tiny: Path) -> None:
    result = ftx("chat", tiny, "--once", "a", "--bits", "4")
    assert (result.code, "use --bits 8, or leave it out" in result.err) == (2, True)


def test_few_bits_without_bitsandbytes_is_said(ftx: Any, heart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftx.few_bits.find_spec", lambda name: None)
    result = ftx("chat", heart, "--once", "a", "--bits", "4")
    assert (result.code, "--bits 4: needs bitsandbytes" in result.err) == (2, True)
