"""Tokens on disk: made once for the same content, whole or not at all, whoever asks at the same time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import TINY, chat, write_rows
from forked import Forked
from ftx.data.cache import cache_root, cached
from ftx.data.load import prepare
from ftx.data.named import named_templates
from ftx.data.samples import Preparation
from ftx.data.sets import open_set
from ftx.data.store import FILES, Store
from ftx.errors import StorageError
from ftx.plugins import load_registry
from ftx_internlm2.family import InternLM2
from ftx_sources.files import Files

REGISTRY = load_registry("none")
HOW = Preparation(named_templates()["internlm2_chat"], InternLM2().tokenizer(TINY), 256)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def made(path: Path, how: Preparation = HOW, version: str = "1", **options: Any) -> Path:
    one = open_set(Files(path=str(path)), "auto", options.get("system"), REGISTRY)
    return prepare([one], how, {"test": version}).folders[0]


def test_the_same_content_is_tokenised_once(rows: Path, cache: Path) -> None:
    folder = made(rows)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert made(rows) == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_whatever_decides_about_tokens_makes_them_anew(rows: Path, cache: Path) -> None:
    folders = [
        made(rows),
        made(rows, version="2"),
        made(rows, system="Be kind."),
        made(rows, replace(HOW, max_length=128)),
        made(rows, replace(HOW, overlong="split")),
        made(rows, replace(HOW, typed_specials=True)),
        made(rows, replace(HOW, template=named_templates()["default"])),
        made(write_rows(rows, 13)),
    ]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("name", [*(f"{name}.bin" for name in FILES), "ledger.json", "rejects.jsonl"])
@pytest.mark.parametrize("how", ["removed", "cut"])
def test_a_damaged_folder_is_made_anew(name: str, how: str, rows: Path, cache: Path) -> None:
    folder = made(rows)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    if how == "removed":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(whole[name][: len(whole[name]) // 2])
    assert made(rows) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_processes_that_ask_at_once_get_one_folder(rows: Path, cache: Path, tmp_path: Path) -> None:
    program = "import test_cache, pathlib, sys; print(test_cache.made(pathlib.Path(sys.argv[1])))"
    running = [Forked(program, rows, said=tmp_path / f"said{i}") for i in range(3)]
    told = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(set(told)) == 1
    assert [path.name for path in cache.iterdir() if not path.name.startswith(".")] == [Path(told[0].strip()).name]


def test_a_making_that_fails_leaves_nothing(cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x", "utf-8")
        raise KeyError

    with pytest.raises(KeyError):
        cached({"a": 1}, fail, lambda folder: True)
    assert [path for path in cache.iterdir() if not path.name.endswith(".lock")] == []


def test_a_relative_place_is_the_same_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTX_CACHE", "cache")
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("FTX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "home")
    assert cache_root() == tmp_path / "home" / "ftx"


def test_a_cache_that_cannot_be_used_says_how_to_name_another(rows: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    monkeypatch.setenv("FTX_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="name another place with FTX_CACHE"):
        made(rows)


def test_the_store_gives_back_what_was_encoded(rows: Path, cache: Path) -> None:
    one = open_set(Files(path=str(rows)), "auto", None, REGISTRY)
    encoded = HOW.rows([talk for record in one.source.records() for talk in one.conversations(record)])
    store = Store(made(rows))
    assert isinstance(store._ids, np.memmap)
    for sample, row in zip(store, encoded, strict=True):
        assert (sample.ids.tolist(), sample.labels.tolist()) == (row.ids, row.labels)  # type: ignore[union-attr]
    assert store.labelled.tolist() == [row.learnt.count(1, 1) for row in encoded]  # type: ignore[union-attr]


def test_a_run_needs_no_cache_that_was_removed(ftx: Any, tiny: Path, rows: Path, cache: Path) -> None:
    assert ftx("train", "--model", tiny, "--data", rows, "--max-steps", 1).code == 0
    shutil.rmtree(cache)
    assert ftx("chat", "runs/rows-lora", "--once", "What is 1?", "--max-new-tokens", 2).code == 0


def moss_row() -> dict[str, Any]:
    turn = {
        "Human": "<|Human|>: 1+1?<eoh>\n",
        "Inner Thoughts": "<|Inner Thoughts|>: calculate<eot>\n",
        "Commands": '<|Commands|>: Calculate("1+1")<eoc>\n',
        "Tool Responses": "<|Results|>:\nCalculate => 2\n<eor>\n",
        "MOSS": "<|MOSS|>: It is 2.<eom>\n",
    }
    plain = {**turn, "Inner Thoughts": "", "Commands": "", "Tool Responses": ""}
    return {"meta_instruction": "You are MOSS.\n", "num_turns": 2, "chat": {"turn_1": turn, "turn_2": plain}}


def test_moss_rows_teach_neither_results_nor_the_meta_text(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(moss_row()) + "\n", "utf-8")
    flags = ["--model", tiny, "--template", "moss_sft", "--json"]
    (told,) = ftx("data", "show", "rows.jsonl", *flags).events
    assert told["format"] == "moss"
    learnt = [part["text"] for part in told["stretches"] if part["learnt"]]
    assert learnt == [
        '<|Inner Thoughts|>: calculate<eot>\n<|Commands|>: Calculate("1+1")<eoc></s>',
        "<|MOSS|>: It is 2.<eom></s>",
        "<|MOSS|>: It is 2.<eom></s>",
    ]
    rest = "".join(part["text"] for part in told["stretches"] if not part["learnt"])
    assert "<|Results|>: Calculate => 2<eor>\n" in rest
    assert "You are MOSS.\n" in rest
    assert ftx("train", "--data", "rows.jsonl", "--max-steps", 1, *flags).code == 0
    talk = ftx("chat", "runs/rows-lora", "--once", "2+2?", "--max-new-tokens", 4)
    assert talk.code == 0, talk.err


def test_tools_are_rendered_and_calls_are_learnt(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    config = json.loads((model / "tokenizer_config.json").read_text("utf-8"))
    config["chat_template"] = (
        "{{ bos_token }}{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{{ '\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role }}{% if m.content %}{{ '\n' + m.content }}{% endif %}"
        "{% for c in m.tool_calls or [] %}{{ '\n<call>' + (c.function | tojson) + '</call>' }}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
    )
    (model / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "It is 2."},
    ]
    row = {"messages": messages, "tools": [{"type": "function", "function": {"name": "add"}}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(chat("a", "b")), "utf-8")
    (told,) = ftx("data", "show", "rows.jsonl", "--model", model, "--json").events
    assert [part["text"] for part in told["stretches"] if part["learnt"]] == [
        '\n<call>{"name": "add", "arguments": {"a": 1}}</call><|im_end|>',
        "It is 2.<|im_end|>",
    ]
    assert '{"type": "function", "function": {"name": "add"}}' in told["stretches"][0]["text"]
    assert ftx("train", "--model", model, "--data", "rows.jsonl", "--max-steps", 1).code == 0
