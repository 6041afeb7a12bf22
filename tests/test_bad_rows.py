"""Rows that cannot be trained on: each is refused with its place, the reason and what to do, and never with a crash."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest

from conftest import TINY, chat
from ftx import Conversation, RowError
from ftx.data.choose import choose_template
from ftx.data.images import MAX_SIDE, look_at
from ftx.data.jinja import JinjaTemplate
from ftx.data.load import Prepared, prepare
from ftx.data.overlong import Policy
from ftx.data.samples import Preparation
from ftx.data.sets import DataSet
from ftx.data.template import Encoded
from ftx.data.tokens import Tokenizer
from ftx_internlm2.family import InternLM2
from ftx_sources.files import Files
from ftx_sources.formats import Llava, Messages, Preference, ShareGPT, Text
from ftx_sources.xtuner_rows import REPLAYS

Plan = Callable[..., Any]
GOOD = chat("Hello!", "Hello, friend.")
Q, A = GOOD["messages"]
CALL = {"type": "function", "function": {"name": "sum", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "sum", "parameters": {}}}
TALK = {"conversations": [{"from": "human", "value": "Hello!"}, {"from": "gpt", "value": "Hello, friend."}]}
PAIR = {"instruction": "Hello!", "output": "Hello, friend."}


def messages(*said: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [*said], **more}


def says(role: Any, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def shown(question: str, *images: Any) -> dict[str, Any]:
    return {"image": [*images], "conversations": [{"from": "human", "value": question}, TALK["conversations"][1]]}


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


# a whole row of the format, the row that is refused, what is said of it
BAD: list[tuple[Any, Any, str]] = [
    # mixed types in a column
    (GOOD, {"messages": 5}, "'messages' is no list; write 'messages' as a list of turns"),
    (GOOD, {"messages": None}, "'messages' is no list"),
    (GOOD, {"messages": "Hello!"}, "'messages' is text that is no JSON list"),
    (GOOD, {"messages": {"role": "user"}}, "'messages' is no list"),
    (GOOD, {}, "'messages' is no list"),
    (GOOD, [GOOD], "'messages' is no list"),
    (GOOD, "Hello!", "'messages' is no list"),
    (GOOD, None, "'messages' is no list"),
    (PAIR, {**PAIR, "output": 12}, "'output' is int, not text; write 'output' as text"),
    (PAIR, {**PAIR, "output": 1.5}, "'output' is float, not text"),
    (PAIR, {**PAIR, "output": None}, "'output' is missing; add 'output'"),
    (PAIR, {**PAIR, "instruction": ["Hello!"]}, "'instruction' is list, not text"),
    (PAIR, {**PAIR, "input": {"a": 1}}, "'input' is dict, not text"),
    (PAIR, {**PAIR, "system": True}, "'system' is bool, not text"),
    ({"text": "Hello!"}, {"text": 5}, "'text' is int, not text"),
    # wrong shapes inside
    (GOOD, messages([Q, A]), "expected an object, found list; make every row a JSON object"),
    (GOOD, messages(Q, None), "expected an object, found NoneType"),
    (GOOD, messages(Q, "Hello!"), "expected an object, found str"),
    (GOOD, messages(says(["user"], "a"), A), "'role' is list, not text"),
    (GOOD, messages(says("user", {"text": "a"}), A), "'content' is dict, not text"),
    (GOOD, messages(says("user", [["a"]]), A), "expected an object, found list"),
    (GOOD, messages(says("user", [{"type": "text", "text": 5}]), A), "'text' is int, not text"),
    (GOOD, messages(Q, says("assistant", "b", loss="no")), "'loss' is 'no', not true or false"),
    (GOOD, messages(Q, says("assistant", "b", loss=[1])), "'loss' is list, not true or false"),
    (GOOD, messages(Q, A, tools=5), "'tools' is no list"),
    (GOOD, messages(Q, says("assistant", "b", tool_calls={"a": 1})), "'tool_calls' is no list"),
    (TALK, {"conversations": [["human", "a"]]}, "expected an object, found list"),
    # turns in the wrong places
    (GOOD, messages(A, Q, A), "the conversation does not begin with a question; begin with a user message"),
    (GOOD, messages(says("system", "s"), A), "the conversation does not begin with a question"),
    (GOOD, messages(says("system", "s"), says("system", "t"), Q, A), "a system message stands after the first turn"),
    (GOOD, messages(Q, A, says("system", "s"), Q, A), "a system message stands after the first turn"),
    (GOOD, messages(Q, Q, A), "two user messages stand in a row; join them or add the missing turn"),
    (GOOD, messages(Q, A, Q), "the row has no answer to its last question; add the assistant's answer"),
    (GOOD, messages(), "the row has no messages"),
    (GOOD, messages(says("tool", "12"), Q, A), "the conversation does not begin with a question"),
    (GOOD, messages(Q, says("tool", "12"), A), "a tool message stands after a user message"),
    (GOOD, messages(Q, A, says("tool", "12")), "the row has no answer to its last question"),
    (GOOD, messages(Q, A, says("tool", "12"), Q, A), "a user message stands after a tool message"),
    (GOOD, messages(says("user", "a", tool_calls=[CALL]), A), "a user message calls a tool; only the assistant"),
    # unknown roles
    (GOOD, messages(says("critic", "a"), A), "role 'critic' is not known; use system, user, assistant or tool"),
    (GOOD, messages(says("User", "a"), A), "role 'User' is not known"),
    (TALK, {"conversations": [{"from": "observation", "value": "a"}]}, "speaker 'observation' is not known"),
    # nothing to learn
    (GOOD, messages(Q, says("assistant", "")), "an answer is empty; write the answer or remove the row"),
    (GOOD, messages(Q, says("assistant", " \n")), "an answer is empty"),
    (GOOD, messages(Q, says("assistant", "", tool_calls=[])), "an answer is empty"),
    (PAIR, {**PAIR, "output": ""}, "an answer is empty"),
    ({"text": "Hello!"}, {"text": " \n "}, "the text is empty; remove the row"),
    (GOOD, messages(Q, {**A, "loss": False}), "no token of the row is learnt; set loss on an answer or remove the row"),
    (GOOD, messages(Q, {**A, "loss": False}, Q, {**A, "loss": False}), "no token of the row is learnt"),
    # characters that are none
    (GOOD, chat("a\x00b", "b"), "the text holds a NUL character; remove it"),
    (GOOD, chat("a", "b\x00"), "the text holds a NUL character"),
    ({"text": "Hello!"}, {"text": "\x00"}, "the text holds a NUL character"),
    (GOOD, chat("a", "b\ud83d"), "the text holds half a character (\\ud83d); write the row as whole UTF-8"),
    (PAIR, {**PAIR, "instruction": "\udfff"}, "the text holds half a character (\\udfff)"),
    (GOOD, messages(says("\ud800", "a"), A), "role '\\ud800' is not known"),
    (GOOD, messages(says("\x1b[2J", "a"), A), "role '\\u001b[2J' is not known"),
    # pictures, which this family does not read
    (TALK, shown("<image>\na", "a.png"), "the row has an image, which this model family does not read; remove it or"),
    (GOOD, messages(says("user", [{"type": "image_url", "image_url": {"url": "a.png"}}]), A), "the row has an image"),
    (TALK, shown("<image>a", "a.png", "b.png"), "the row has 1 images more than <image> marks; give one <image>"),
    (TALK, shown("a", "a.png"), "the row has 1 images more than <image> marks"),
    (TALK, shown("<image><image>a", "a.png"), "a question has 2 <image> marks and 1 images are left; add the images"),
    (TALK, shown("<image>a", 5), "'image' is no path; write 'image' as the path of a picture"),
    # tools, which the tokenizer's own template does not write
    (GOOD, messages(Q, A, tools=[TOOL]), "the chat template has no place for tools; name another template"),
    (GOOD, messages(Q, says("assistant", None, tool_calls=[CALL])), "the chat template has no place for tool calls"),
    (GOOD, messages(Q, says("assistant", "b", tool_calls=[CALL])), "the chat template has no place for tool calls"),
    (GOOD, messages(Q, A, tools=[{"name": "\ud800"}]), "the text holds half a character (\\ud800)"),
    (GOOD, messages(Q, A, tools=[{"na\x00me": "sum"}]), "the text holds a NUL character"),
    (GOOD, messages(Q, A, tools=[{"name": "a<|im_end|>"}]), "a tool or call holds a special token"),
]
IDS = [f"{number}: {words[:50]!a}" for number, (_, _, words) in enumerate(BAD)]


def put(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def refusal(ftx: Plan, file: Path, *more: str) -> str:
    """What the plan of a set says that is refused whole."""
    result = ftx("plan", "--model", TINY, "--data", file, "--json", *more)
    assert result.code == 3
    (event,) = result.events
    assert (event["event"], event["kind"], event["code"]) == ("error", "data", 3)
    assert "Traceback" not in result.err
    return str(result.err)


def account(ftx: Plan, file: Path, allowed: int, *more: str) -> dict[str, int]:
    """The plan's account of a set of which so many rows may be refused."""
    result = ftx("plan", "--model", TINY, "--data", file, "--json", "--set", f"data.max_rejected={allowed}", *more)
    assert result.code == 0, result.err
    rows: dict[str, int] = result.events[-1]["data"]["rows"]
    assert rows["read"] == rows["kept"] + rows["truncated"] + rows["rejected"]
    return rows


@pytest.mark.parametrize(("good", "bad", "words"), BAD, ids=IDS)
def test_a_bad_row_is_refused_in_a_sentence_and_accounted_for(
    good: Any, bad: Any, words: str, ftx: Plan, tmp_path: Path
) -> None:
    file = put(tmp_path / "rows.jsonl", [good, bad, good])
    told = refusal(ftx, file)
    assert "1 of 3 rows cannot be trained on and data.max_rejected is 0: mend them, or allow so many" in told
    assert f"ftx: {file}: row 2: {words}" in told
    rows = account(ftx, file, 1)
    assert (rows["read"], rows["kept"], rows["rejected"]) == (3, 2, 1)


@pytest.mark.parametrize(("good", "bad", "words"), BAD[::7], ids=IDS[::7])
def test_a_set_of_nothing_but_bad_rows_is_refused_however_many_are_allowed(
    good: Any, bad: Any, words: str, ftx: Plan, tmp_path: Path
) -> None:
    file = put(tmp_path / "rows.jsonl", [bad])
    assert "can be trained on" in (told := refusal(ftx, file, "--set", "data.max_rejected=9")) or "no known" in told


def test_a_run_lists_its_rejects_with_place_reason_and_remedy(ftx: Plan, tmp_path: Path) -> None:
    bad = [row for good, row, _ in BAD if good is GOOD]
    words = [words for good, _, words in BAD if good is GOOD]
    file = put(tmp_path / "rows.jsonl", [GOOD, *bad, GOOD])
    allowed = ("--set", f"data.max_rejected={len(bad)}")
    result = ftx("train", "--model", TINY, "--data", file, "--max-steps", 1, "--out", tmp_path / "run", *allowed)
    assert result.code == 0, result.err
    rejects = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text("utf-8").splitlines()]
    assert [(one["file"], one["line"]) for one in rejects] == [(str(file), 2 + i) for i in range(len(bad))]
    for one, told in zip(rejects, words, strict=True):
        assert set(one) == {"file", "line", "reason", "remedy"}
        sentence = f"{one['reason']}; {one['remedy']}".replace("\ud800", "\\ud800").replace("\x1b", "\\u001b")
        assert sentence.startswith(told)
        assert one["remedy"]


def test_a_broken_first_line_does_not_hide_what_the_others_hold(ftx: Plan, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"messages": [\n{"reply": "b"}\n', "utf-8")
    assert f"{file}: row 2 has keys 'reply', which is no known format" in refusal(ftx, file)


# files that are damaged


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"messages": [{"role": "us', "broken JSON: Unterminated string"),
        ("Hello!", "column 1: broken JSON: Expecting value; mend the line"),
        ("{'messages': []}", "broken JSON: Expecting property name"),
        ('{"messages": "a\x00b"}', "broken JSON: Invalid control character"),
        ("\x00" * 20, "broken JSON: Expecting value"),
        pytest.param('{"messages": ' + "[" * 200_000, "broken JSON: nested too deeply", id="nested"),
        ('{"messages": ' + "9" * 5000 + "}", "broken JSON: Exceeds the limit"),
    ],
)
def test_a_damaged_line_is_one_bad_row(line: str, words: str, ftx: Plan, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    many = (json.dumps(GOOD) + "\n") * 60  # beyond the first 4096 bytes, where NUL bytes tell of UTF-16
    file.write_text(f"{many}{line}\n{json.dumps(GOOD)}\n", "utf-8")
    told = refusal(ftx, file)
    assert f"{file}: row 61: " in told
    assert words in told
    rows = account(ftx, file, 1)
    assert (rows["read"], rows["kept"], rows["rejected"]) == (62, 61, 1)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_a_file_with_nul_bytes_at_its_start_is_no_text(name: str, ftx: Plan, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(json.dumps(GOOD).encode("utf-16"))
    assert f"{tmp_path / name} is not text: it holds NUL bytes" in refusal(ftx, tmp_path / name)


def test_cells_of_a_csv_that_should_hold_json(ftx: Plan, tmp_path: Path) -> None:
    cells = [json.dumps(GOOD["messages"]), "5", "Hello!", '{"role": "user"}', "", "null", str(GOOD["messages"])]
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "messages"], *((str(i), cell) for i, cell in enumerate(cells))])
    told = refusal(ftx, tmp_path / "rows.csv")
    assert "row 3: 'messages' is no list" in told
    assert "row 4: 'messages' is text that is no JSON list" in told
    assert "... and 1 more rows" in told
    rows = account(ftx, tmp_path / "rows.csv", 6)
    assert (rows["read"], rows["kept"], rows["rejected"]) == (7, 1, 6)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pyarrow.array([1, 2]), "row 1: 'output' is int, not text"),
        (pyarrow.array([b"a", b"b"]), "row 1: 'output' is bytes, not text"),
        (pyarrow.array([["a"], ["b"]]), "row 1: 'output' is list, not text"),
        (pyarrow.array([{"a": 1}, None]), "row 1: 'output' is dict, not text"),
        (pyarrow.array([None, None], pyarrow.string()), "row 1: 'output' is missing"),
    ],
)
def test_a_parquet_column_of_another_type(column: Any, words: str, ftx: Plan, tmp_path: Path) -> None:
    table = pyarrow.table({"instruction": ["a", "b"], "output": column})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    told = refusal(ftx, tmp_path / "rows.parquet")
    assert "none of the 2 rows can be trained on" in told
    assert words in told


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([0, 10**15], pyarrow.timestamp("s")),
        pyarrow.array([0, 10**7], pyarrow.date32()),
        pyarrow.StringArray.from_buffers(
            2, pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pyarrow.py_buffer(b"ab\xff\xfe")
        ),
    ],
    ids=["a far time", "a far day", "no UTF-8"],
)
def test_a_parquet_cell_that_python_cannot_hold_is_one_bad_row(column: Any, ftx: Plan, tmp_path: Path) -> None:
    table = pyarrow.table({"instruction": ["a", "b"], "output": ["c", "d"], "other": column})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    assert "row 2: a cell does not read: " in refusal(ftx, tmp_path / "rows.parquet")
    rows = account(ftx, tmp_path / "rows.parquet", 1)
    assert (rows["read"], rows["kept"], rows["rejected"]) == (2, 1, 1)


def test_nanoseconds_in_parquet_are_accounted_for(ftx: Plan, tmp_path: Path) -> None:
    """Where pandas is installed they read, into a type of its own."""
    column = pyarrow.array([1000, 1001], pyarrow.timestamp("ns"))
    table = pyarrow.table({"instruction": ["a", "b"], "output": ["c", "d"], "other": column})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    rows = account(ftx, tmp_path / "rows.parquet", 1)
    assert rows["rejected"] == (0 if find_spec("pandas") else 1)


def test_a_tool_nested_deeply_is_refused(ftx: Plan, tmp_path: Path) -> None:
    """How deep is too deep for Python's own functions depends on its version."""
    file = put(tmp_path / "rows.jsonl", [GOOD, messages(Q, A, tools=[{"name": nested(600)}])])
    told = refusal(ftx, file)
    assert "row 2: a tool or call is nested too deeply" in told or "row 2: the chat template has no place for" in told


def test_two_parquet_columns_of_one_name_are_refused(ftx: Plan, tmp_path: Path) -> None:
    twins = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    pyarrow.parquet.write_table(twins, tmp_path / "rows.parquet")
    assert "two columns are called 'text'; rename one" in refusal(ftx, tmp_path / "rows.parquet")


def test_a_sheet_with_formulas_merged_cells_and_empty_lines(ftx: Plan, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    lines = [
        ("instruction", "output"),
        ("a", "b"),
        (),
        ("c", "=1+1"),
        ("d", "e"),
        (None, "f"),
        (),
        (None, None),
        ("g", "h"),
    ]
    for number, cells in enumerate(lines, 1):
        for column, cell in enumerate(cells, 1):
            book.active.cell(number, column).value = cell
    book.active.merge_cells("A5:A6")
    book.save(tmp_path / "rows.xlsx")
    told = refusal(ftx, tmp_path / "rows.xlsx")
    assert "row 4: cell B4 holds a formula without a saved value; save the file in a spreadsheet" in told
    assert "row 6: its cells A5:A6 are merged with the row above; give every row cells of its own" in told
    rows = account(ftx, tmp_path / "rows.xlsx", 2)
    assert (rows["read"], rows["kept"], rows["rejected"]) == (5, 3, 2)


@pytest.mark.parametrize("more", [{}, {"prompt": "a"}, {"prompt": "a", "question": "b", "answer": "c"}])
def test_preference_pairs_are_refused_as_a_set(more: dict[str, str], ftx: Plan, tmp_path: Path) -> None:
    file = put(tmp_path / "rows.jsonl", [{**more, "chosen": "b", "rejected": "c"}] * 3)
    told = refusal(ftx, file, "--set", "data.max_rejected=3")
    assert f"{file}: has 'chosen' and 'rejected': {Preference.refusal}" in told
    if "prompt" in more:
        assert account(ftx, file, 0, "--columns", "input=prompt,output=chosen")["kept"] == 3


@pytest.mark.parametrize("template", ["internlm_chat", "llama3_chat", "phi3_chat", "cohere_chat", "deepseek_v2"])
def test_a_template_whose_stop_token_the_tokenizer_lacks_is_refused(template: str, ftx: Plan, rows: Path) -> None:
    result = ftx("plan", "--model", TINY, "--data", rows, "--template", template, "--json")
    assert result.code == 2
    assert f"template '{template}' ends answers with '" in result.err
    assert "which is not one special token of this tokenizer; choose a template that fits the model" in result.err


# rows of a format's own function


def test_marks_and_pictures_must_be_as_many() -> None:
    for turn, images, words in [
        ("<image><image>a", ["a.png"], "a question has 2 <image> marks and 1 images are left"),
        ("<image>a", [], "a question has 1 <image> marks and 0 images are left"),
        ("a", ["a.png", "b.png"], "the row has 2 images more than <image> marks"),
        ("<image>\ufffca", ["a.png"], "a message has 2 image marks and 1 images"),
    ]:
        with pytest.raises(RowError, match=words):
            Llava().parse(shown(turn, *images))
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "\ufffc"}]
    with pytest.raises(RowError, match="a message has 2 image marks and 1 images"):
        Messages().parse(messages(says("user", parts), A))
    assert ShareGPT().parse(TALK).images == ()


@pytest.mark.parametrize("image", [5, {"a": 1}, [5], [None], True, [["a.png"]]])
def test_a_picture_that_is_no_path_is_refused_by_the_replays_too(image: Any) -> None:
    row = {**shown("<image>a"), "image": image}
    for name in ("llava", "llava_image_only", "wizardlm"):
        with pytest.raises(RowError, match="'image' is no path"):
            REPLAYS[name]().parse(row)


@pytest.mark.parametrize(
    "said", ["{[]: 1}", "[", "5", "\x00", "(" * 500, "[1,", "\ud800", "-" * 100_000 + "1", "__import__('os')"]
)
def test_a_dialogue_in_text_is_read_or_refused_and_never_run(said: str) -> None:
    with pytest.raises(RowError, match=r"'conversations' is (no list|text that is no list)"):
        REPLAYS["msagent_react"]().parse({"conversations": said})


def test_a_dialogue_of_megabytes_is_read_in_linear_time() -> None:
    """A pattern that tries every place anew would take days."""
    for said in ("x" * 3_000_000, "<|startofthink|>" * 200_000, "<|endofthink|>" * 200_000):
        turns = [{"from": "user", "value": "a"}, {"from": "assistant", "value": said}]
        assert REPLAYS["msagent_react"]().parse({"conversations": turns}).learnt_turns == 1


WRITES_TOOLS = (
    "{{ bos_token }}{{ tools }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{% for call in m.tool_calls or [] %}{{ call.name }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return InternLM2().tokenizer(TINY)


@pytest.mark.parametrize("depth", [50, 400, *range(850, 960, 5)])
def test_no_depth_of_nesting_is_more_than_a_bad_row(depth: int, tokenizer: Tokenizer) -> None:
    """Where Python's own limit is met depends on how deep the program itself is."""
    tool = {"name": "a", "description": nested(depth)}
    listing = '{"name": "a", "description": ' + "[" * depth + "]" * depth + "}"
    dialogue = [{"from": "system", "value": listing}, {"from": "user", "value": "a"}]
    with suppress(RowError):
        REPLAYS["msagent_react"]().parse({"conversations": [*dialogue, {"from": "assistant", "value": "b"}]})
    with suppress(RowError):
        talk = Conversation(Messages().parse(GOOD).messages, (tool,))
        JinjaTemplate(WRITES_TOOLS, tokenizer).encode(talk, tokenizer)
    with pytest.raises(RowError, match="'loss' is list, not true or false"):
        Messages().parse(messages(Q, {**A, "loss": nested(depth)}))


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb", "a\x00b"])
def test_tools_that_a_template_writes_hold_only_characters(name: str, tokenizer: Tokenizer) -> None:
    writes = JinjaTemplate(WRITES_TOOLS, tokenizer)
    for row in (messages(Q, A, tools=[{"name": name}]), messages(Q, {**A, "tool_calls": [{"name": name}]})):
        with pytest.raises(RowError, match="the text holds"):
            writes.encode(Messages().parse(row), tokenizer)


def test_a_template_that_writes_tools_or_calls_alone_is_told_from_one_that_writes_both(tokenizer: Tokenizer) -> None:
    own = choose_template("tokenizer", tokenizer, "default")
    named = choose_template("internlm2_chat", tokenizer, "default")
    writes = JinjaTemplate(WRITES_TOOLS, tokenizer)
    tools, call = messages(Q, A, tools=[TOOL]), messages(Q, {**A, "tool_calls": [{"name": "sum"}]})
    for row in (tools, call):
        assert "sum" in tokenizer.decode(writes.encode(Messages().parse(row), tokenizer).ids)
        for template in (own, named):
            with pytest.raises(RowError, match="has no place for tool"):
                template.encode(Messages().parse(row), tokenizer)
    with pytest.raises(RowError, match="has no place for tool calls"):
        writes.encode(Messages().parse(messages(Q, {**A, "tool_calls": [{"id": 1}]})), tokenizer)


# pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a whole picture, and with others that are none; a picture lies beside the folder."""
    from PIL import Image

    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    Image.effect_noise((90, 70), 50).save(folder / "below" / "a.png")
    whole = (folder / "below" / "a.png").read_bytes()
    (tmp_path / "outside.png").write_bytes(whole)
    (folder / "cut.png").write_bytes(whole[:-2000])
    (folder / "head.png").write_bytes(whole[:20])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    Image.new("1", (20_000, 1)).save(folder / "wide.png")
    Image.new("1", (1, MAX_SIDE + 1)).save(folder / "high.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "circle.png").symlink_to("circle.png")
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../outside.png", "leaves the image folder; give a path inside it"),
        ("below/../../outside.png", "leaves the image folder"),
        ("below/../below/a.png", "leaves the image folder"),
        ("link.png", "leaves the image folder"),
        ("/etc/passwd", "is no path inside the image folder; give a path relative to it"),
        ("https://example.com/a.png", "is no path inside the image folder"),
        ("data:image/png;base64,AAAA", "is no path inside the image folder"),
        ("file:///a.png", "is no path inside the image folder"),
        ("a\x00.png", "is no path inside the image folder"),
        ("none.png", "is not in "),
        ("below", "is not in "),
        ("", "is not in "),
        ("circle.png", "is not in "),
        ("circle.png/a.png", "is not in "),
        ("\ud800.png", "is not in "),
        ("a" * 5000, "is not in "),
        ("cut.png", "does not open: "),
        ("head.png", "'head.png' "),
        ("text.png", "is no picture; replace it"),
        ("empty.png", "is no picture"),
        ("wide.png", "is 20000 x 1 pixels; keep it below 16384 a side"),
        ("high.png", "is 1 x 16385 pixels"),
    ],
)
def test_a_picture_that_is_not_there_whole_and_small_is_refused(name: str, words: str, pictures: Path) -> None:
    with pytest.raises(RowError) as caught:
        look_at(pictures, name)
    assert words in str(caught.value)
    seen = look_at(pictures, "below/a.png")
    assert (seen.width, seen.height) == (90, 70)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "TGA", "DDS", "JPEG2000"])
def test_a_damaged_picture_opens_or_is_refused(kind: str, tmp_path: Path) -> None:
    from PIL import Image

    rnd = random.Random(kind)
    Image.effect_noise((16, 16), 50).convert("RGB").save(tmp_path / "a", kind)
    whole = (tmp_path / "a").read_bytes()
    for _ in range(100):
        raw = bytearray(whole)
        for _ in range(rnd.randint(1, 4)):
            raw[rnd.randrange(min(len(raw), 128))] = rnd.randrange(256)
        (tmp_path / "a").write_bytes(raw)
        with suppress(RowError):
            look_at(tmp_path, "a")


# rows that are too long


class Counting(Tokenizer):
    """Counts the characters it is given."""

    given = 0

    def encode_texts(self, texts: Iterable[str], *, specials: bool = False) -> dict[str, list[int]]:
        known = list(texts)
        self.given += sum(map(len, known))
        return super().encode_texts(known, specials=specials)


def prepared(rows: list[Any], folder: Path, tokenizer: Tokenizer, policy: Policy, limit: int) -> Prepared:
    file = put(folder / f"{policy}-{limit}.jsonl", rows)
    how = Preparation(choose_template("internlm2_chat", tokenizer, "default"), tokenizer, limit, policy)
    kind = Text() if "text" in rows[0] else Messages()
    done = prepare([DataSet(Files(path=str(file)), kind, "named", None)], how, {"made in": str(folder)})
    ledger = done.ledger
    assert ledger.read == len(rows) == ledger.kept + ledger.truncated + ledger.rejected
    assert ledger.longest <= limit
    return done


def samples(done: Prepared) -> list[Encoded]:
    return [Encoded(one.ids.tolist(), bytes(one.learnt)) for one in done.stores[0]]


def reasons(done: Prepared) -> list[str]:
    return [json.loads(line)["reason"] for line in done.rejects()]


HUGE = "some words. \n" * 830_000  # 10 MB
LONG_ANSWER, LATER, TEXT = chat("a", HUGE), messages(Q, A, says("user", HUGE), A), {"text": HUGE}


@pytest.mark.parametrize(
    ("row", "policy", "outcome"),
    [
        (LONG_ANSWER, "truncate", "its first question and answer exceed data.max_length 64"),
        (LONG_ANSWER, "split", "no question and answer of the row fits data.max_length 64"),
        (LONG_ANSWER, "reject", f"the row has {len(HUGE) + 1} characters, too many for data.max_length 64"),
        (LONG_ANSWER, "cut", "truncated"),
        (LATER, "truncate", "truncated"),
        (LATER, "split", "truncated"),
        (LATER, "reject", "too many for data.max_length 64"),
        (LATER, "cut", "truncated"),
        (TEXT, "truncate", "truncated"),
        (TEXT, "reject", f"the row has {len(HUGE)} characters"),
        (TEXT, "cut", "truncated"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_of_10_megabytes_is_not_tokenised_whole(row: Any, policy: Policy, outcome: str, tmp_path: Path) -> None:
    tokenizer = Counting(InternLM2().tokenizer(TINY).hf)
    done = prepared([row, TEXT | {"text": "short"} if row is TEXT else GOOD], tmp_path, tokenizer, policy, 64)
    assert tokenizer.given < 10_000
    assert done.ledger.kept == 1
    if outcome == "truncated":
        assert done.ledger.truncated == 1
        assert len(samples(done)) == 2
    else:
        (reason,) = reasons(done)
        assert outcome in reason


def test_a_text_of_10_megabytes_is_split_without_loss(tokenizer: Tokenizer, tmp_path: Path) -> None:
    done = prepared([TEXT], tmp_path, tokenizer, "split", 512)
    assert (done.ledger.kept, done.ledger.truncated) == (1, 0)
    specials = {tokenizer.special("<s>"), tokenizer.special("</s>")}
    assert tokenizer.decode([i for one in samples(done) for i in one.ids if i not in specials]) == HUGE
    assert samples(done)[-1].ids[-1] == tokenizer.special("</s>")


def test_a_row_of_very_many_turns_is_split_in_linear_time(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Trying half of all turns first, for every sample anew, took minutes."""
    done = prepared([messages(*[Q, A] * 10_000)], tmp_path, tokenizer, "split", 100)
    assert (done.ledger.kept, done.ledger.truncated) == (1, 0)
    stop = tokenizer.special("<|im_end|>")
    assert stop is not None
    assert sum(one.times_learnt(stop) for one in samples(done)) == 10_000


def test_an_array_that_begins_with_a_huge_row_is_read_in_linear_time(tmp_path: Path) -> None:
    """Moving what is left of a huge row's piece for every small row after it took minutes."""
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"text": HUGE}, *[{"text": "a" * 80}] * 50_000], indent=1), "utf-8")
    lines = [record.line for record in Files(path=str(file)).records()]
    assert lines == [2 + 3 * i for i in range(50_001)]


SYSTEM = says("system", "Be kind.")
TURNS = [chat(f"What is {i}?" * (i % 3 + 1), f"It is {i}. " * (i % 4 + 1))["messages"] for i in range(7)]


def talk(first: int, last: int) -> Conversation:
    """The system message and the exchanges from one up to another."""
    return Messages().parse(messages(SYSTEM, *(said for turn in TURNS[first:last] for said in turn)))


def encoded(tokenizer: Tokenizer, first: int, last: int) -> Encoded:
    return choose_template("internlm2_chat", tokenizer, "default").encode(talk(first, last), tokenizer)


def limits(tokenizer: Tokenizer) -> list[int]:
    lengths = [len(encoded(tokenizer, 0, count).ids) for count in range(1, 8)]
    return sorted({length + more for length in lengths for more in (-1, 0, 1)})


WHOLE = messages(SYSTEM, *(said for turn in TURNS for said in turn))


def test_a_truncated_row_equals_the_shorter_conversation(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for limit in limits(tokenizer):
        done = prepared([WHOLE], tmp_path, tokenizer, "truncate", limit)
        fitting = [i for i in range(1, 8) if len(encoded(tokenizer, 0, i).ids) <= limit]
        if not fitting:
            assert reasons(done) == [f"its first question and answer exceed data.max_length {limit}"]
            continue
        assert samples(done) == [encoded(tokenizer, 0, fitting[-1])]
        assert done.ledger.kept == (fitting[-1] == 7)


def test_split_samples_hold_every_exchange_once_with_the_system_message(tokenizer: Tokenizer, tmp_path: Path) -> None:
    longest = max(len(encoded(tokenizer, i, i + 1).ids) for i in range(7))
    for limit in limits(tokenizer):
        done = prepared([WHOLE], tmp_path, tokenizer, "split", limit)
        expected: list[Encoded] = []
        at = lost = 0
        while at < 7:
            ends = [end for end in range(at + 1, 8) if len(encoded(tokenizer, at, end).ids) <= limit]
            expected += [encoded(tokenizer, at, ends[-1])] if ends else []
            lost += not ends
            at = ends[-1] if ends else at + 1
        assert samples(done) == expected
        assert done.ledger.truncated == (0 < lost < 7)
        if limit >= longest:
            stop = tokenizer.special("<|im_end|>")
            assert stop is not None
            assert sum(one.times_learnt(stop) for one in expected) == 7


def test_a_cut_row_is_the_start_of_the_whole_one(tokenizer: Tokenizer, tmp_path: Path) -> None:
    whole = encoded(tokenizer, 0, 7)
    for limit in limits(tokenizer):
        done = prepared([WHOLE], tmp_path, tokenizer, "cut", limit)
        assert samples(done) == [whole.part(0, limit)]
        assert done.ledger.truncated == (limit < len(whole.ids))


def test_a_row_too_long_is_rejected_by_its_number_of_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    length = len(encoded(tokenizer, 0, 7).ids)
    done = prepared([WHOLE], tmp_path, tokenizer, "reject", length - 1)
    assert reasons(done) == [f"the row has {length} tokens, too many for data.max_length {length - 1}"]
    assert samples(prepared([WHOLE], tmp_path, tokenizer, "reject", length)) == [encoded(tokenizer, 0, 7)]


def test_a_long_text_is_cut_or_split_into_its_own_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    row = {"text": "A text of several sentences. 今天天气很好。\n" * 3}
    whole = choose_template("internlm2_chat", tokenizer, "default").encode(Text().parse(row), tokenizer)
    for limit in (8, 20, len(whole.ids) - 1, len(whole.ids), len(whole.ids) + 1):
        split = samples(prepared([row], tmp_path, tokenizer, "split", limit))
        told = [i for one in split for i in one.ids]
        assert told == whole.ids[: len(told)]
        assert len(whole.ids) - len(told) <= 1  # a last token alone teaches nothing
        for policy in ("truncate", "cut"):
            assert samples(prepared([row], tmp_path, tokenizer, policy, limit)) == [whole.part(0, limit)]  # type: ignore[arg-type]


def test_a_row_cut_before_its_answer_has_nothing_to_learn(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert reasons(prepared([WHOLE], tmp_path, tokenizer, "cut", 6)) == ["no answer begins within 6 tokens"]
    masked = messages(Q, {**A, "loss": False}, says("user", "What is 7?" * 20), A)
    assert reasons(prepared([masked], tmp_path, tokenizer, "truncate", 60)) == ["no answer begins within 60 tokens"]
