"""Row formats: each knows its rows by their keys, turns them into one kind of conversation, and says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftx import Conversation, DataError, DataFormat, Message, RecipeError, RowError
from ftx.data.sets import DataSet, open_set
from ftx.plugins import Registry, load_registry
from ftx_sources.files import Files
from ftx_sources.formats import Alpaca, Messages, ShareGPT, Text, XTunerConversation


def system(text: str) -> Message:
    return Message("system", text)


def user(text: str) -> Message:
    return Message("user", text)


def answer(text: str, loss: bool = True) -> Message:
    return Message("assistant", text, loss)


def says(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def turn(question: Any, reply: Any, **more: Any) -> dict[str, Any]:
    return {"input": question, "output": reply, **more}


def spoken(speaker: str, value: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value}


TWO_TURNS = (user("a"), answer("b"), user("c"), answer("d"))
FORMATS: dict[str, type[DataFormat]] = {
    "openai": Messages,
    "xtuner": XTunerConversation,
    "sharegpt": ShareGPT,
    "alpaca": Alpaca,
    "text": Text,
}
# name of the format, row, what it says
GOOD: list[tuple[str, Any, tuple[Message, ...]]] = [
    ("openai", {"messages": [says("user", "a"), says("assistant", "b")]}, (user("a"), answer("b"))),
    (
        "openai",
        {"messages": [says("user", "a"), says("assistant", "b"), says("user", "c"), says("assistant", "d")]},
        TWO_TURNS,
    ),
    (
        "openai",
        {"messages": [says("system", "s"), says("user", "a"), says("assistant", "b")], "id": 7},
        (system("s"), user("a"), answer("b")),
    ),
    ("xtuner", {"conversation": [turn("a", "b")]}, (user("a"), answer("b"))),
    ("xtuner", {"conversation": [turn("a", "b"), turn("c", "d")]}, TWO_TURNS),
    (
        "xtuner",
        {"conversation": [turn("a", "b", system="s"), turn("c", "d", system="")]},
        (system("s"), *TWO_TURNS),
    ),
    ("xtuner", {"conversation": [turn("a", "b", system="")]}, (user("a"), answer("b"))),
    ("xtuner", {"conversation": [turn("", "all of this")]}, (Message("text", "all of this"),)),
    ("sharegpt", {"conversations": [spoken("human", "a"), spoken("gpt", "b")]}, (user("a"), answer("b"))),
    (
        "sharegpt",
        {"conversations": [spoken("human", "a"), spoken("gpt", "b"), spoken("user", "c"), spoken("assistant", "d")]},
        TWO_TURNS,
    ),
    (
        "sharegpt",
        {"system": "s", "conversations": [spoken("human", "a"), spoken("gpt", "b")]},
        (system("s"), user("a"), answer("b")),
    ),
    (
        "sharegpt",
        {"system": "", "conversations": [spoken("system", "s"), spoken("human", "a"), spoken("gpt", "b")]},
        (system("s"), user("a"), answer("b")),
    ),
    ("alpaca", {"instruction": "a", "output": "b"}, (user("a"), answer("b"))),
    ("alpaca", {"instruction": "a", "input": "", "output": "b"}, (user("a"), answer("b"))),
    ("alpaca", {"instruction": "a", "input": None, "output": "b"}, (user("a"), answer("b"))),
    ("alpaca", {"instruction": "a", "input": "x", "output": "b"}, (user("a\nx"), answer("b"))),
    (
        "alpaca",
        {"instruction": "a", "input": "", "output": "b", "system": "s", "text": "the three as one"},
        (system("s"), user("a"), answer("b")),
    ),
    ("text", {"text": " kept as it is \n"}, (Message("text", " kept as it is \n"),)),
]
IDS = [f"{name}{number}" for number, (name, _, _) in enumerate(GOOD)]


@pytest.mark.parametrize(("name", "row", "messages"), GOOD, ids=IDS)
def test_each_format_parses_its_rows(name: str, row: Any, messages: tuple[Message, ...]) -> None:
    assert FORMATS[name]().parse(row) == Conversation(messages)


@pytest.mark.parametrize(("name", "row", "messages"), GOOD, ids=IDS)
def test_each_format_recognises_its_rows(name: str, row: Any, messages: tuple[Message, ...]) -> None:
    evidence = FORMATS[name]().recognise(row)
    assert evidence
    assert evidence.startswith("has '")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("row", [None, 3, "messages", [], ["text"], {}, {"Text": "a"}, {"instruction": "no answer"}])
def test_no_format_recognises_other_rows(row: Any, name: str) -> None:
    assert FORMATS[name]().recognise(row) is None


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "row",
    [
        None,
        3,
        "a",
        [],
        [[]],
        {},
        *(
            {key: bad}
            for key in ("messages", "conversation", "conversations", "text")
            for bad in (None, 3, {}, "", " ")
        ),
        *({key: [bad]} for key in ("messages", "conversation", "conversations") for bad in (None, 3, "x", [], {})),
        {"instruction": None, "output": None},
        {"conversations": [], "system": 3},
    ],
    ids=repr,
)
def test_a_row_of_any_shape_is_refused_with_a_reason(row: Any, name: str) -> None:
    """Nothing but a RowError ever comes out of `parse`."""
    with pytest.raises(RowError) as caught:
        FORMATS[name]().parse(row)
    assert caught.value.reason
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["messages", "conversation", "conversations"])
def test_lists_may_be_json_text_in_a_table_cell(name: str) -> None:
    row = {
        "messages": [says("system", "s"), says("user", "你好"), says("assistant", "b", loss=False)],
        "conversation": [turn("你好", "b", system="s")],
        "conversations": [spoken("system", "s"), spoken("human", "你好"), spoken("gpt", "b")],
    }[name]
    found = next(f() for f in FORMATS.values() if f().recognise({name: row}))
    assert found.parse({name: json.dumps(row)}) == found.parse({name: row})
    with pytest.raises(RowError, match=f"'{name}' is text that is no JSON list"):
        found.parse({name: "[{'role': 'user'}]"})
    with pytest.raises(RowError, match=f"'{name}' is no list"):
        found.parse({name: '{"role": "user"}'})


def test_loss_marks_the_answers_that_are_learnt() -> None:
    row = {
        "messages": [
            says("user", "a"),
            says("assistant", "b", loss=False),
            says("user", "c"),
            says("assistant", "d", loss=True),
        ]
    }
    assert Messages().parse(row).messages == (user("a"), answer("b", loss=False), user("c"), answer("d"))


def test_xtuner_rows_mark_them_too() -> None:
    """XTuner's encode skips the labels of a turn with output_with_loss false."""
    row = {"conversation": [turn("a", "b", output_with_loss=False), turn("c", "d", output_with_loss=True)]}
    assert XTunerConversation().parse(row).messages == (user("a"), answer("b", loss=False), user("c"), answer("d"))


@pytest.mark.parametrize("loss", ["false", 0, 1, None, []])
def test_loss_of_another_type_is_refused(loss: Any) -> None:
    with pytest.raises(RowError, match=r"'loss' is .*, not true or false"):
        Messages().parse({"messages": [says("user", "a"), says("assistant", "b", loss=loss)]})


Q, A = says("user", "a"), says("assistant", "b")
REFUSED: list[tuple[str, Any, str]] = [
    # the answer is missing
    ("openai", {"messages": [Q]}, "has no answer to its last question"),
    ("openai", {"messages": [Q, A, Q]}, "has no answer to its last question"),
    ("openai", {"messages": [Q, {"role": "assistant"}]}, "'content' is missing"),
    ("openai", {"messages": [Q, says("assistant", None, tool_calls=[])]}, "'content' is missing"),
    ("xtuner", {"conversation": [{"input": "a"}]}, "'output' is missing"),
    ("xtuner", {"conversation": [{"output": "b"}]}, "'input' is missing"),
    ("sharegpt", {"conversations": [spoken("human", "a")]}, "has no answer to its last question"),
    ("alpaca", {"instruction": "a"}, "'output' is missing"),
    ("alpaca", {"instruction": "a", "output": None}, "'output' is missing"),
    ("text", {"text": None}, "'text' is missing"),
    # it is empty
    ("openai", {"messages": [Q, says("assistant", "")]}, "an answer is empty"),
    ("openai", {"messages": [Q, says("assistant", " \n"), Q, A]}, "an answer is empty"),
    ("xtuner", {"conversation": [turn("a", "")]}, "an answer is empty"),
    ("xtuner", {"conversation": [turn("", "")]}, "the text is empty"),
    ("sharegpt", {"conversations": [spoken("human", "a"), spoken("gpt", "\t")]}, "an answer is empty"),
    ("alpaca", {"instruction": "a", "output": ""}, "an answer is empty"),
    ("text", {"text": " \n "}, "the text is empty"),
    # nothing is there
    ("openai", {"messages": []}, "has no messages"),
    ("xtuner", {"conversation": []}, "has no messages"),
    ("sharegpt", {"conversations": []}, "has no messages"),
    # turns in the wrong order
    ("openai", {"messages": [Q, Q, A]}, "two user messages stand in a row"),
    ("openai", {"messages": [Q, A, A]}, "two assistant messages stand in a row"),
    ("openai", {"messages": [A]}, "does not begin with a question"),
    ("openai", {"messages": [says("system", "s")]}, "does not begin with a question"),
    ("openai", {"messages": [says("system", "s"), A]}, "does not begin with a question"),
    ("sharegpt", {"conversations": [spoken("human", "a"), spoken("human", "a")]}, "two user messages stand in a row"),
    # system in the middle
    ("openai", {"messages": [Q, A, says("system", "s"), Q, A]}, "a system message stands after the first turn"),
    ("openai", {"messages": [says("system", "s"), says("system", "t"), Q, A]}, "a system message stands after"),
    ("sharegpt", {"conversations": [spoken("human", "a"), spoken("system", "s")]}, "a system message stands after"),
    (
        "sharegpt",
        {"system": "s", "conversations": [spoken("system", "t"), spoken("human", "a"), spoken("gpt", "b")]},
        "a system message stands after",
    ),
    # unknown roles
    ("openai", {"messages": [says("critic", "x"), A]}, "role 'critic' is not known; use system, user, assistant or"),
    ("openai", {"messages": [Q, says("tool", "x"), A]}, "a tool message stands after a user message"),
    ("openai", {"messages": [says("text", "x")]}, "role 'text' is not known"),
    ("openai", {"messages": [says("User", "x"), A]}, "role 'User' is not known"),
    ("openai", {"messages": [{"content": "x"}, A]}, "'role' is missing"),
    ("sharegpt", {"conversations": [spoken("observation", "x")]}, "speaker 'observation' is not known; use one of"),
    # wrong types
    ("openai", {"messages": [says("user", [{"type": "sound"}]), A]}, "a part of type 'sound' is not known"),
    ("openai", {"messages": [says("user", [{"type": "text"}]), A]}, "'text' is missing"),
    ("openai", {"messages": [says("user", ["a"]), A]}, "expected an object, found str"),
    ("openai", {"messages": [Q, says("assistant", 12)]}, "'content' is int, not text"),
    ("openai", {"messages": [says("user", {"a": 1}), A]}, "'content' is dict, not text"),
    ("openai", {"messages": [says(3, "x"), A]}, "'role' is int, not text"),  # type: ignore[arg-type]
    ("openai", {"messages": ["hello"]}, "expected an object, found str"),
    ("openai", {"messages": {"role": "user"}}, "'messages' is no list"),
    ("xtuner", {"conversation": [turn(1, "b")]}, "'input' is int, not text"),
    ("xtuner", {"conversation": [turn("a", ["b"])]}, "'output' is list, not text"),
    ("xtuner", {"conversation": [turn("a", "b", system=3)]}, "'system' is int, not text"),
    ("xtuner", {"conversation": ["a"]}, "expected an object, found str"),
    ("sharegpt", {"conversations": [spoken("human", 1)]}, "'value' is int, not text"),
    ("sharegpt", {"conversations": [["human", "a"]]}, "expected an object, found list"),
    ("alpaca", {"instruction": 1, "output": "b"}, "'instruction' is int, not text"),
    ("alpaca", {"instruction": "a", "input": 1, "output": "b"}, "'input' is int, not text"),
    ("alpaca", {"instruction": "a", "output": True}, "'output' is bool, not text"),
    ("text", {"text": ["a"]}, "'text' is list, not text"),
]


@pytest.mark.parametrize(("name", "row", "reason"), REFUSED, ids=[f"{n}: {r}" for n, _, r in REFUSED])
def test_a_row_that_cannot_be_learnt_is_refused_with_reason_and_remedy(name: str, row: Any, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        FORMATS[name]().parse(row)
    assert reason in str(caught.value)
    assert str(caught.value) == f"{caught.value.reason}; {caught.value.remedy}"


def test_a_system_message_of_the_recipe_joins_rows_without_one() -> None:
    plain = Conversation((user("a"), answer("b")))
    assert plain.with_system("s").messages == (system("s"), user("a"), answer("b"))
    assert plain.with_system(None) is plain.with_system("") is plain
    own = Conversation((system("own"), user("a"), answer("b")))
    assert own.with_system("s") is own
    text = Conversation((Message("text", "a"),))
    assert text.with_system("s") is text


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry("none")


def opened(rows: list[Any], folder: Path, registry: Registry, format_name: str = "auto") -> DataSet:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return open_set(Files(path=str(path)), format_name, "s", registry)


@pytest.mark.parametrize(("name", "row", "messages"), GOOD, ids=IDS)
def test_the_format_is_found_from_the_first_rows(
    name: str, row: Any, messages: tuple[Message, ...], tmp_path: Path, registry: Registry
) -> None:
    found = opened([row, {"anything": "else"}], tmp_path, registry)
    assert found.format.name == name
    assert found.evidence == f"{FORMATS[name]().recognise(row)} in 1 of 2 rows"
    assert found.system == "s"
    assert [record.line for record in found.source.records()] == [1, 2]


def test_a_named_format_is_taken_without_looking(tmp_path: Path, registry: Registry) -> None:
    found = opened([{"text": "a", "messages": []}], tmp_path, registry, "text")
    assert (found.format.name, found.evidence) == ("text", "named in the recipe")


def test_messages_as_json_text_in_a_csv_are_found_and_parsed(tmp_path: Path, registry: Registry) -> None:
    import csv

    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "messages"], ["1", json.dumps([says("user", "a, b"), A])]])
    found = open_set(Files(path=str(path)), "auto", None, registry)
    (record,) = found.source.records()
    assert found.format.parse(record.value).messages == (user("a, b"), answer("b"))


def test_an_unknown_format_is_refused_naming_keys_seen_and_formats_known(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(DataError) as caught:
        opened([{"question": "a", "reply": "b"}, {"text": "c"}], tmp_path, registry)
    (sentence,) = caught.value.problems
    assert sentence.startswith(f"{tmp_path / 'rows.jsonl'}: row 1 has keys 'question', 'reply'")
    assert "which is no known format" in sentence
    assert "openai, xtuner, llava, sharegpt, moss, oasst_tree, alpaca, input_output" in sentence


@pytest.mark.parametrize(("row", "seen"), [(["a"], "list"), ("a", "str"), (3, "int"), (None, "NoneType"), ({}, "keys")])
def test_rows_that_are_no_objects_are_no_known_format(row: Any, seen: str, tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(DataError, match=f"row 1 has {seen}"):
        opened([row], tmp_path, registry)


def test_a_format_that_does_not_exist_is_named(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(RecipeError, match="format 'sharegtp' is not known; did you mean 'sharegpt'"):
        opened([{"text": "a"}], tmp_path, registry, "sharegtp")
