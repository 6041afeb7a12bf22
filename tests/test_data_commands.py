"""ftx data: what a set holds is seen before it is trained on, and sets are converted, split and made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from PIL import Image

from conftest import chat, write_rows
from ftx import RecipeError
from ftx.data.identity import identity_rows
from ftx.data.secrets import secrets_in


def put(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def taken(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_check_tells_what_a_set_holds(ftx: Any, tmp_path: Path) -> None:
    rows = [chat("What is 1?", "One."), chat("What is 1?", "One."), chat("Call 13812345678", "ok" * 200)]
    rows.append(
        {"messages": [{"role": "system", "content": "s"}, *chat("a", "b")["messages"], *chat("c", "d")["messages"]]}
    )
    result = ftx("data", "check", put(tmp_path / "rows.jsonl", rows), "--json")
    assert result.code == 0
    (told,) = result.events
    assert (told["format"], told["evidence"]) == ("openai", "has 'messages'")
    assert told["rows"] == {"read": 4, "good": 4, "rejected": 0}
    assert told["answers"] == {"1": 3, "2": 1}
    assert told["with_system"] == 1
    assert told["duplicates"] == {"count": 1, "places": [f"{tmp_path / 'rows.jsonl'}: row 2"]}
    assert told["secrets"] == {"phone number": {"count": 1, "places": [f"{tmp_path / 'rows.jsonl'}: row 3"]}}
    assert told["lengths"]["unit"] == "characters"
    assert (told["lengths"]["min"], told["lengths"]["max"]) == (5, 416)
    assert told["lengths"]["histogram"] == [[8, 1], [16, 2], [32, 0], [64, 0], [128, 0], [256, 0], [512, 1]]


def test_check_refuses_bad_rows_and_tells_why_and_where(ftx: Any, tmp_path: Path) -> None:
    rows = [chat("a", "b"), chat("a", ""), {"messages": [{"role": "user", "content": "a"}]}, chat("c", "")]
    result = ftx("data", "check", put(tmp_path / "rows.jsonl", rows))
    assert result.code == 3
    assert "row 2: an answer is empty; write the answer or remove the row" in result.err
    assert "row 3: the row has no answer to its last question" in result.err
    assert "an answer is empty" in result.out
    assert "4 read, 1 good, 3 rejected" in result.out


def test_check_counts_tokens_of_a_model_and_rows_that_are_too_long(ftx: Any, tiny: Path, rows: Path) -> None:
    (told,) = ftx("data", "check", rows, "--model", tiny, "--max-length", 40, "--json").events
    assert told["lengths"]["unit"] == "tokens"
    assert told["over_max_length"] == sum(n for _, n in told["lengths"]["histogram"] if n) - told_below(told, 40)
    shown = ftx("data", "check", rows, "--model", tiny, "--max-length", 40)
    assert "length in tokens" in shown.out
    assert "rows exceed the maximum length" in shown.err


def told_below(told: Any, limit: int) -> int:
    return int(told["rows"]["good"] - told["over_max_length"])


def test_check_opens_images(ftx: Any, tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:2000])
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Black."}]
    rows = [{"image": name, "conversations": turns} for name in ("good.png", "cut.png", "../x.png", "none.png")]
    result = ftx("data", "check", put(tmp_path / "rows.jsonl", rows), "--json")
    assert result.code == 3
    told = result.events[0]
    assert (told["format"], told["rows"]["good"], told["images"]) == ("llava", 1, 1)
    assert [reason for reason in told["reasons"] if "cut.png' does not open" in reason]
    assert [reason for reason in told["reasons"] if "leaves the image folder" in reason]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "good.png").rename(tmp_path / "elsewhere" / "good.png")
    only = put(tmp_path / "one.jsonl", rows[:1])
    assert ftx("data", "check", only).code == 3
    assert ftx("data", "check", only, "--images", tmp_path / "elsewhere").code == 0


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("hf_" + "a" * 34, "Hugging Face token"),
        ("ms-01234567-89ab-cdef-0123-456789abcdef", "ModelScope token"),
        ("ghp_" + "A1" * 18, "GitHub token"),
        ("AKIAIOSFODNN7EXAMPLE", "AWS key"),
        ("key: sk-proj-" + "x1" * 12, "API key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
        ("git clone https://me:hunter2@example.com/x.git", "password in a URL"),
        ("我的电话是13912345678。", "phone number"),
        ("+86 139-1234-5678", "phone number"),
        ("call +44 20 7946 0958", "phone number"),
        ("身份证 11010519491231002X", "identity card number"),
        ("write to someone@mail.example.org", "e-mail address"),
    ],
)
def test_secrets_are_known(text: str, kind: str) -> None:
    assert kind in list(secrets_in(text))


@pytest.mark.parametrize(
    "text",
    ["3.1415926535897", "order 2024110112345", "a@b", "http://a.b:80/c", "sk-learn is a library", "12345678901", "1+1"],
)
def test_ordinary_text_is_no_secret(text: str) -> None:
    assert list(secrets_in(text)) == []


def test_show_tells_what_is_learnt(ftx: Any, tiny: Path, rows: Path) -> None:
    (told,) = ftx("data", "show", rows, "--row", 2, "--model", tiny, "--json").events
    parts = told["stretches"]
    assert "".join(part["text"] for part in parts) == (
        "<s><|im_start|>user\nWhat is 1?What is 1?<|im_end|>\n<|im_start|>assistant\nIt is 1. It is 1. <|im_end|>\n"
    )
    assert [part["text"] for part in parts if part["learnt"]] == ["It is 1. It is 1. <|im_end|>"]
    assert all(len(part["ids"]) == len(part["tokens"]) for part in parts)
    shown = ftx("data", "show", rows, "--row", 2, "--model", tiny).out
    assert "tokens are learnt (green)" in shown
    plain = ftx("data", "show", rows)
    assert "What is 0?" in plain.out
    past = ftx("data", "show", rows, "--row", 99)
    assert (past.code, past.err) == (3, f"ftx: {rows} has fewer than 99 rows\n")


def test_show_names_what_is_wrong_with_a_row(ftx: Any, tmp_path: Path) -> None:
    path = put(tmp_path / "rows.jsonl", [chat("a", "")])
    result = ftx("data", "show", path)
    assert (result.code, result.err) == (
        3,
        f"ftx: {path}: row 1: an answer is empty; write the answer or remove the row\n",
    )


SYSTEM = {"role": "system", "content": "s"}
TALKS = {
    "one turn": chat("a", "b"),
    "system": {"messages": [SYSTEM, *chat("a", "b")["messages"]]},
    "two turns": {"messages": [SYSTEM, *chat("a", "b")["messages"], *chat("c", "d")["messages"]]},
    "one not learnt": {
        "messages": [
            *chat("a", "b")["messages"],
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": "d", "loss": False},
        ]
    },
    "image": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "what?"}],
            },
            {"role": "assistant", "content": "b"},
        ]
    },
    "tools": {
        "messages": [
            {"role": "user", "content": "a"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
            },
            {"role": "tool", "content": "3"},
            {"role": "assistant", "content": "b"},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    },
    "text": {"messages": [{"role": "pretrain", "content": "all of this"}]},
}
HOLDS = {
    "openai": set(TALKS),
    "sharegpt": {"one turn", "system", "two turns", "one not learnt", "image"},
    "llava": {"one turn", "system", "two turns", "one not learnt", "image"},
    "xtuner": {"one turn", "system", "two turns", "one not learnt", "text"},
    "alpaca": {"one turn", "system"},
    "input_output": {"one turn", "system"},
    "prompt_completion": {"one turn", "system"},
    "text": {"text"},
}


@pytest.mark.parametrize("name", HOLDS)
@pytest.mark.parametrize("talk", TALKS)
def test_any_format_becomes_any_that_can_hold_it(talk: str, name: str, ftx: Any, tmp_path: Path) -> None:
    source = put(tmp_path / "rows.jsonl", [TALKS[talk]])
    result = ftx("data", "convert", source, tmp_path / "out.jsonl", "--to", name)
    if talk not in HOLDS[name]:
        assert result.code == 3
        assert not (tmp_path / "out.jsonl").exists()
        return
    assert result.code == 0, result.err
    again = ftx("data", "convert", tmp_path / "out.jsonl", tmp_path / "back.json", "--to", "openai", "--format", name)
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "back.json").read_text("utf-8")) == [TALKS[talk]]


HALF = "the text holds half a character (\\ud83d); write the row as whole UTF-8"
TOOLS = [{"type": "function", "function": {"name": "a\ud83d"}}]


@pytest.mark.parametrize("bad", [chat("a\ud83d", "c"), {**chat("a", "c"), "tools": TOOLS}], ids=["text", "tools"])
def test_half_a_character_rejects_the_row_in_every_command(bad: Any, ftx: Any, tmp_path: Path) -> None:
    rows = [bad, *(chat(f"What is {i}?", "c") for i in range(20))]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    told = f"ftx: {source}: row 1: {HALF}\n"
    for command, out, more in (
        ("check", (), ("--max-rejected", 1)),
        ("convert", (tmp_path / "out.json",), ("--to", "alpaca", "--max-rejected", 1)),
        ("split", (tmp_path / "parts",), ("--test", 0.5, "--max-rejected", 1)),
    ):
        refused = ftx("data", command, source, *out, *more[:-2])
        assert (refused.code, told in refused.err) == (3, True)
        assert ftx("data", command, source, *out, *more).code == 0
    shown = ftx("data", "show", source)
    assert (shown.code, shown.err) == (3, told)
    assert len(json.loads((tmp_path / "out.json").read_text("utf-8"))) == 20
    assert sum(len(taken(tmp_path / "parts" / f"{name}.jsonl")) for name in ("train", "test")) == 20
    (checked,) = ftx("data", "check", source, "--max-rejected", 1, "--json").events
    assert checked["rows"] == {"read": 21, "good": 20, "rejected": 1}


def test_half_a_character_in_a_column_that_is_not_read_stays_as_it_is(ftx: Any, tmp_path: Path) -> None:
    rows = [{**chat(f"What is {i}?", "c"), "note": "\ud83d"} for i in range(20)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert ftx("data", "split", source, tmp_path / "parts", "--test", 0.5).code == 0
    parts = [row for name in ("train", "test") for row in taken(tmp_path / "parts" / f"{name}.jsonl")]
    assert sorted(map(json.dumps, parts)) == sorted(map(json.dumps, rows))


@pytest.mark.parametrize("name", ["x[/y]", "[red]x", "x:smile:", "x\udcff"])
def test_names_and_reasons_are_shown_as_they_are(name: str, ftx: Any, tiny: Path, tmp_path: Path) -> None:
    shown = name.replace("\udcff", "\\udcff")
    source = Path(f"{name}.jsonl")
    source.parent.mkdir(exist_ok=True)
    put(source, [chat("a[/b]", "c"), {"messages": [{"role": "[/x]", "content": "a"}]}])
    checked = ftx("data", "check", source, "--max-rejected", 1)
    assert (checked.code, f"{shown}.jsonl" in checked.out, "role '[/x]' is not known" in checked.out) == (0, True, True)
    row = ftx("data", "show", source)
    assert (row.code, f"{shown}.jsonl: row 1" in row.out, "a[/b]" in row.out) == (0, True, True)
    planned = ftx(
        "plan",
        "--model",
        tiny,
        "--data",
        source,
        "--out",
        f"r/{name}",
        "--set",
        "data.max_rejected=1",
        "--max-steps",
        1,
    )
    assert (planned.code, f"1 steps into r/{shown}" in planned.out) == (0, True), planned.err
    converted = ftx("data", "convert", source, f"{name}-out.jsonl", "--max-rejected", 1)
    assert (converted.code, f"{shown}-out.jsonl" in converted.err) == (0, True)


def test_an_excel_sheet_becomes_json_lines(ftx: Any, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for line in [("q", "a"), ("我压力很大", "休息一下"), ("b", "c")]:
        book.active.append(line)
    book.save(tmp_path / "rows.xlsx")
    flags = ["--columns", "input=q,output=a", "--system", "coach", "--to", "alpaca"]
    result = ftx("data", "convert", tmp_path / "rows.xlsx", tmp_path / "rows.jsonl", *flags, "--json")
    assert result.events[-1]["kept"] == 2
    assert taken(tmp_path / "rows.jsonl")[0] == {
        "instruction": "我压力很大",
        "input": "",
        "output": "休息一下",
        "system": "coach",
    }


def test_nothing_is_overwritten_and_nothing_half_written(ftx: Any, rows: Path, tmp_path: Path) -> None:
    before = rows.read_bytes()
    result = ftx("data", "convert", rows, rows)
    assert (result.code, "exists; give another name" in result.err) == (2, True)
    assert ftx("data", "convert", rows, tmp_path / "out.csv").code == 2
    assert "must end in .jsonl or .json" in ftx("data", "convert", rows, tmp_path / "out.csv").err
    with rows.open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    refused = ftx("data", "convert", rows, tmp_path / "out.jsonl")
    assert refused.code == 3
    assert "or allow so many with --max-rejected 1" in refused.err
    assert ftx("data", "convert", rows, tmp_path / "out.jsonl", "--max-rejected", 1).code == 0
    assert len(taken(tmp_path / "out.jsonl")) == len(before.splitlines()) == 12
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_a_format_that_is_only_read_says_so(ftx: Any, rows: Path, tmp_path: Path) -> None:
    result = ftx("data", "convert", rows, tmp_path / "out.jsonl", "--to", "colors")
    assert (result.code, "format colors_map_fn is read and not written" in result.err) == (3, True)


def test_split_keeps_the_same_question_on_one_side(ftx: Any, tmp_path: Path) -> None:
    rows = [chat(f"What is {i % 100}?", f"It is {i}.") for i in range(300)]
    source = put(tmp_path / "rows.jsonl", rows)
    (told,) = ftx("data", "split", source, tmp_path / "parts", "--test", 0.2, "--json").events
    train, test = taken(tmp_path / "parts" / "train.jsonl"), taken(tmp_path / "parts" / "test.jsonl")
    assert told["rows"] == [len(train), len(test)]
    assert len(train) + len(test) == 300
    assert 20 <= len(test) <= 100
    assert not {r["messages"][0]["content"] for r in train} & {r["messages"][0]["content"] for r in test}
    more = put(tmp_path / "more.jsonl", [*rows, *(chat(f"New {i}?", "yes") for i in range(50))])
    assert ftx("data", "split", more, tmp_path / "again", "--test", 0.2).code == 0
    assert [r for r in taken(tmp_path / "again" / "test.jsonl") if "New" not in r["messages"][0]["content"]] == test
    assert ftx("data", "split", source, tmp_path / "other", "--test", 0.2, "--seed", 1).code == 0
    assert taken(tmp_path / "other" / "test.jsonl") != test


def test_a_split_that_would_leave_nothing_is_refused(ftx: Any, tmp_path: Path) -> None:
    source = put(tmp_path / "rows.jsonl", [chat("a", "b")])
    result = ftx("data", "split", source, tmp_path / "parts", "--test", 0.5)
    assert (result.code, "would fall into one file" in result.err) == (2, True)
    assert not (tmp_path / "parts").exists()


def test_a_refused_file_leaves_no_folder_that_was_made_for_it(ftx: Any, tmp_path: Path) -> None:
    source = put(tmp_path / "rows.jsonl", [chat("a", "b"), chat("a", "")])
    (tmp_path / "mine").mkdir()
    for folder in ("new/parts", "mine/parts", "mine"):
        assert ftx("data", "split", source, tmp_path / folder).code == 3
        assert ftx("data", "convert", source, tmp_path / folder / "out.jsonl").code == 3
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "mine", source]


def test_identity_rows_are_all_different_and_say_the_name(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    result = ftx("data", "identity", "--name", "小明", "--rows", 600, "--out", tmp_path / "me.jsonl", "--json")
    assert result.events == [{"event": "made", "out": str(tmp_path / "me.jsonl"), "rows": 600}]
    rows = taken(tmp_path / "me.jsonl")
    assert len({json.dumps(row) for row in rows}) == 600
    answers = [m["content"] for row in rows for m in row["messages"] if m["role"] == "assistant"]
    assert all("小明" in answer for answer in answers)
    assert sum("assistant" in answer for answer in answers) > 200
    assert sum("助手" in answer for answer in answers) > 200
    assert ftx("plan", "--model", tiny, "--data", tmp_path / "me.jsonl").code == 0


def test_identity_rows_follow_their_seed_and_bounds() -> None:
    assert identity_rows("Ada", None, 50) == identity_rows("Ada", None, 50)
    assert identity_rows("Ada", None, 50, seed=1) != identity_rows("Ada", None, 50)
    told = json.dumps(identity_rows("Ada", "the Analytical Society", 400, ("en",)))
    assert "trained by the Analytical Society" in told
    assert "None" not in json.dumps(identity_rows("Ada", None, 400))
    assert len(identity_rows("Ada", None, 5_000)) == 5_000
    with pytest.raises(RecipeError, match="--rows 10000000: at most"):
        identity_rows("Ada", None, 10_000_000, ("en",))
    with pytest.raises(RecipeError, match="--name is empty"):
        identity_rows(" ", None, 1)


def test_a_hub_is_named_in_the_path(ftx: Any, tmp_path: Path) -> None:
    unknown = ftx("data", "check", "huggingfac:owner/name")
    assert (unknown.code, "did you mean 'huggingface'?" in unknown.err) == (2, True)
    wrong = ftx("data", "check", "huggingface:nobody")
    assert (wrong.code, "must be owner/name" in wrong.err) == (2, True)
    write_rows(tmp_path / "a:b.jsonl", 2)
    assert ftx("data", "check", "a:b.jsonl").code == 0
