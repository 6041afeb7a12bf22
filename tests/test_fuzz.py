"""Ten thousand rows of every format, broken at random: each is kept, cut or refused with its place and a reason."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import TINY
from ftx import FtxError, ImageProcessor, RowError
from ftx.data.choose import choose_template
from ftx.data.load import Prepared, prepare
from ftx.data.overlong import Policy
from ftx.data.samples import Preparation
from ftx.data.sets import DataSet, open_set
from ftx.data.store import Sample
from ftx.data.template import IMAGE_ID
from ftx.data.tokens import Tokenizer
from ftx.plugins import Registry, load_registry
from ftx_internlm2.family import InternLM2
from ftx_sources.files import Files

ROWS = 300  # of each of 34 kinds
TEMPLATES = ("internlm2_chat", "default", "tokenizer")
POLICIES: tuple[Policy, ...] = ("truncate", "split", "reject", "cut")
LIMITS = (2, 8, 24, 60, 150, 600)
WORDS = [
    *(
        "Hello",
        "what is",
        "seven",
        "plus five?",
        "你好",
        "今天天气",
        "。",
        "\n",
        "\n\n",
        "  ",
        "é ß",
        "😀",
        "한글",
        "٣",
    ),
    *("<|im_end|>", "<|im_start|>assistant\n", "</s>", "<s>", "<unk>", "<|User|>:", "{{ x }}", "{input}", "\\n", '"'),
]
STRANGE = [
    *("", " ", "\x00", "a\x00b", "\ud800", "x\udfff", "\ud83d", "\ufffc", "\ufffc\ufffc", "\ue100", "\ue0f10\ue0f2"),
    *("\ue0f1", "\uf7ff", "\u2003", "\u2028", "\x85", "\x1b[2J", "\ufeff", "\ufffd", "\u202e", "a\u0301" * 9),
    *(
        "<image>",
        "<image><image>",
        "<IMG_CONTEXT>",
        "<|im_end|>",
        "</s>",
        "###",
        "### Human: a",
        "Human: a",
        "[]",
        "{}",
    ),
    *(
        "[[",
        '{"a": 1}',
        "['a']",
        "{[]: 1}",
        "None",
        "<nooutput>",
        "<|startofthink|>{}<|endofthink|>",
        "<|startofexec|>",
    ),
]
VALUES: list[Any] = [None, True, False, 0, -1, 3.5, 10**400, 1e308, float("nan"), float("inf"), [], {}, [[]], [{}]]
ROLES = ["system", "user", "assistant", "tool", "function", "developer", "pretrain", "critic", "human", "gpt", "USER"]
DEEP, LONG_NUMBER = "@deep@", "@long number@"  # what no JSON writer writes; put in afterwards

Row = dict[str, Any]


def said(rnd: random.Random) -> str:
    long = "word " * rnd.randrange(4000) if rnd.random() < 0.02 else ""
    return long + " ".join(rnd.choice(WORDS) for _ in range(rnd.randint(1, 9)))


def answer(rnd: random.Random) -> str:
    return "It is " + said(rnd)


def openai(rnd: random.Random) -> Row:
    messages: list[Row] = [{"role": "system", "content": said(rnd)}] if rnd.random() < 0.3 else []
    for _ in range(rnd.choice((1, 1, 2, 3, 8))):
        messages.append({"role": "user", "content": said(rnd)})
        messages.append({"role": "assistant", "content": answer(rnd)})
        if rnd.random() < 0.2:
            messages[-1]["loss"] = rnd.random() < 0.5
        if rnd.random() < 0.2:
            messages[-2]["content"] = [{"type": "text", "text": said(rnd)}]
    return {"messages": messages}


def openai_tools(rnd: random.Random) -> Row:
    row = openai(rnd)
    row["tools"] = [{"type": "function", "function": {"name": "sum", "parameters": {"a": {"type": "number"}}}}]
    call = {"type": "function", "function": {"name": "sum", "arguments": {"a": 1}}}
    row["messages"] += [
        {"role": "user", "content": said(rnd)},
        {"role": "assistant", "content": rnd.choice((None, "", "I call it.")), "tool_calls": [call]},
        {"role": "tool", "content": said(rnd)},
        {"role": "assistant", "content": answer(rnd)},
    ]
    return row


def openai_images(rnd: random.Random) -> Row:
    row = openai(rnd)
    shown = {"type": "image_url", "image_url": {"url": picture(rnd)}}
    parts = [shown, {"type": "text", "text": said(rnd)}]
    row["messages"][-2]["content"] = parts if rnd.random() < 0.7 else [*parts, {"type": "image", "image": picture(rnd)}]
    return row


def picture(rnd: random.Random) -> str:
    wrong = rnd.choice(("cut.png", "none.png", "../a.png", "/a.png", "https://h/a.png", ""))
    return wrong if rnd.random() < 0.2 else "a.png"


def xtuner(rnd: random.Random) -> Row:
    if rnd.random() < 0.2:
        return {"conversation": [{"input": "", "output": said(rnd), "need_eos_token": rnd.random() < 0.5}]}
    turns = [{"input": said(rnd), "output": answer(rnd)} for _ in range(rnd.choice((1, 2, 5)))]
    for turn in turns:
        if rnd.random() < 0.3:
            turn |= {"system": said(rnd)}
        if rnd.random() < 0.2:
            turn |= {"output_with_loss": rnd.random() < 0.5}
    return {"conversation": turns}


def sharegpt(rnd: random.Random) -> Row:
    turns = []
    for _ in range(rnd.choice((1, 2, 5))):
        turns += [{"from": "human", "value": said(rnd)}, {"from": "gpt", "value": answer(rnd)}]
    return {"conversations": turns, "id": 7}


def llava(rnd: random.Random) -> Row:
    row = sharegpt(rnd)
    row["conversations"][0]["value"] = "<image>\n" + said(rnd)
    row["image"] = picture(rnd) if rnd.random() < 0.7 else [picture(rnd)]
    return row


def llava_only(rnd: random.Random) -> Row:
    row = llava(rnd)
    return {**row, "conversations": row["conversations"][:2]}


def moss(rnd: random.Random) -> Row:
    def turn() -> Row:
        one = {"Human": f"<|Human|>: {said(rnd)}<eoh>\n", "MOSS": f"<|MOSS|>: {answer(rnd)}<eom>\n"}
        if rnd.random() < 0.4:
            one |= {"Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n", "Commands": "<|Commands|>: None<eoc>\n"}
        if rnd.random() < 0.2:
            one |= {"Tool Responses": f"<|Results|>: {said(rnd)}<eor>\n"}
        return one

    return {"meta_instruction": said(rnd), "chat": {f"turn_{i + 1}": turn() for i in range(rnd.choice((1, 2, 4)))}}


def oasst1(rnd: random.Random) -> Row:
    return {"text": "".join(f"### Human: {said(rnd)}### Assistant: {answer(rnd)}" for _ in range(rnd.choice((1, 3))))}


def msagent(rnd: random.Random) -> Row:
    tool = {"name": "sum", "description": "adds", "paths": [{"parameters": [{"name": "a", "description": "one"}]}]}
    call = '<|startofthink|>```JSON\n{"api_name": "sum", "parameters": {"a": 1}}```<|endofthink|>'
    result = '<|startofexec|>```JSON\n{"b": 2}```<|endofexec|>' + rnd.choice(("", "done"))
    turns = [
        {"from": "system", "value": f"tools: {json.dumps(tool)}"},
        {"from": "user", "value": said(rnd)},
        {"from": "assistant", "value": rnd.choice((answer(rnd), said(rnd) + call, call + result))},
    ]
    return {"conversations": repr(turns) if rnd.random() < 0.5 else turns}


def columns(*names: str) -> Callable[[random.Random], Row]:
    return lambda rnd: {name: answer(rnd) for name in names}


KINDS: dict[str, tuple[str, Callable[[random.Random], Row]]] = {
    "openai": ("openai", openai),
    "openai with tools": ("openai", openai_tools),
    "openai with images": ("openai", openai_images),
    "xtuner": ("xtuner", xtuner),
    "sharegpt": ("sharegpt", sharegpt),
    "llava": ("llava", llava),
    "moss": ("moss", moss),
    "alpaca": ("alpaca", columns("instruction", "input", "output", "system")),
    "input_output": ("input_output", columns("input", "output")),
    "prompt_completion": ("prompt_completion", columns("prompt", "completion")),
    "prompt_response": ("prompt_response", columns("prompt", "response")),
    "question_answer": ("question_answer", columns("question", "answer", "system")),
    "text": ("text", columns("text")),
    "preference": ("preference", columns("prompt", "chosen", "rejected")),
    **{
        f"{name}_map_fn": (f"{name}_map_fn", make)
        for name, make in {
            "default": columns("input", "output"),
            "stack_exchange": columns("question", "response"),
            "arxiv": columns("abstract", "title"),
            "code_alpaca": columns("prompt", "completion"),
            "tiny_codes": columns("prompt", "response"),
            "crime_kg_assitan": columns("input", "output"),
            "law_reference": columns("question", "answer"),
            "alpaca": columns("instruction", "input", "output"),
            "alpaca_zh": columns("instruction_zh", "input_zh", "output_zh"),
            "colors": columns("description", "color"),
            "medical": columns("instruction", "input", "output"),
            "sql": columns("context", "question", "answer"),
            "openorca": columns("system_prompt", "question", "response"),
            "pretrain": columns("text"),
            "oasst1": oasst1,
            "openai": openai,
            "wizardlm": sharegpt,
            "llava": llava,
            "llava_image_only": llava_only,
            "msagent_react": msagent,
        }.items()
    },
}


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Every place in the tree, as its container and its key."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        keys = [*one] if isinstance(one, dict) else [*range(len(one))]
        found += [(one, key) for key in keys]
        waiting += [one[key] for key in keys if isinstance(one[key], dict | list)]
    return found


def spoil(rnd: random.Random, row: Row) -> Any:
    """The row with something wrong somewhere, or something that only looks wrong."""
    places = spots(row)
    if not places or rnd.random() < 0.03:
        return rnd.choice((None, 3, "text", [], [row], {}, True, json.dumps(row)))
    inside, key = rnd.choice(places)
    old = inside[key]
    change = rnd.randrange(9)
    if change == 0:
        inside[key] = rnd.choice((*VALUES, DEEP, LONG_NUMBER))
    elif change == 1:
        del inside[key]
    elif change == 2:
        inside[key] = rnd.choice(STRANGE)
    elif change == 3:
        inside[key] = json.dumps(old) if rnd.random() < 0.7 else repr(old)
    elif change == 4:
        inside[key] = rnd.choice(([old], {key: old}, {"value": old}, [old, old], (old, rnd.choice(VALUES))))
    elif change == 5 and isinstance(inside, list):
        inside.insert(rnd.randrange(len(inside) + 1), rnd.choice((*inside, rnd.choice(VALUES), rnd.choice(STRANGE))))
    elif change == 6 and isinstance(inside, dict):
        names = ("loss", "system", "tools", "tool_calls", "image", "images", "role", "from", "value", "\ud800", "")
        inside[rnd.choice(names)] = rnd.choice((*VALUES, *STRANGE, *ROLES, DEEP, [old]))
    elif isinstance(old, str):
        at = rnd.randrange(len(old) + 1)
        long = rnd.random() < 0.03
        inside[key] = old[:at] + rnd.choice(STRANGE) * (20_000 if long else 1) + old[at:]
        if rnd.random() < 0.3:
            inside[key] = rnd.choice(ROLES)
    return row


def written(rnd: random.Random, value: Any) -> str:
    line = json.dumps(value, ensure_ascii=rnd.random() < 0.5)
    line = line.encode("utf-8", "backslashreplace").decode("utf-8")
    depth = rnd.choice((5, 60, 300, 700, 900, 940, 960, 980, 2000))
    line = line.replace(f'"{DEEP}"', rnd.choice(("[", '{"a":[')) * depth + "]" * depth)
    return line.replace(f'"{LONG_NUMBER}"', "9" * rnd.choice((300, 4300, 5000)))


def damaged(rnd: random.Random, line: str) -> str:
    at = rnd.randrange(len(line))
    return rnd.choice(
        (
            line[:at],
            line[at:],
            line + line,
            line + ",",
            "",
            "   ",
            "\u3000",
            "not JSON",
            "{",
            "]",
            "\x01\x02",
            "'a'",
            "\r",
        )
    )


def rows_of(make: Callable[[random.Random], Row], rnd: random.Random) -> list[str]:
    lines = []
    for _ in range(ROWS):
        value: Any = make(rnd)
        for _ in range(rnd.choice((0, 0, 0, 1, 1, 2, 3))):
            value = spoil(rnd, value) if isinstance(value, dict) else value
        line = written(rnd, value)
        lines.append(damaged(rnd, line) if rnd.random() < 0.04 else line)
    return lines


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return InternLM2().tokenizer(TINY)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry("none")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with one whole picture and one that is cut off."""
    from PIL import Image

    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-20])
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_accounted_for_whatever_it_holds(
    kind: str, tokenizer: Tokenizer, registry: Registry, pictures: Path
) -> None:
    name, make = KINDS[kind]
    rnd = random.Random(kind)
    lines = rows_of(make, rnd)
    path = pictures / "rows.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    one = DataSet(Files(path=str(path)), registry.format(name)(), "named", rnd.choice((None, "Be kind.")))
    trained = 0
    for template in TEMPLATES:
        policy, limit = rnd.choice(POLICIES), 2048 if template == "default" else rnd.choice(LIMITS)
        chosen = choose_template(template, tokenizer, "default")
        how = Preparation(chosen, tokenizer, limit, policy, images=Eyes() if template != "tokenizer" else None)
        prepared = prepare([one], how, {})
        check_account(prepared, lines, str(path))
        check_samples(prepared, how)
        trained += prepared.ledger.trained
    assert trained > ROWS / 4 or kind in ("openai with tools", "preference"), "too few rows are whole to prove anything"


class Eyes(ImageProcessor):
    """Pictures that take more places the wider they are, between two tokens that are not."""

    def key(self) -> dict[str, Any]:
        return {}

    def lay_out(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        return [(5, *[IMAGE_ID] * (1 + width // 20), 6) for width, _ in sizes]

    def pixels(self, pictures: Sequence[Any]) -> Any:
        raise NotImplementedError


def check_account(prepared: Prepared, lines: list[str], file: str) -> None:
    ledger = prepared.ledger
    there = {number for number, line in enumerate(lines, 1) if line.strip()}
    assert ledger.read == len(there)
    assert ledger.read == ledger.kept + ledger.truncated + ledger.rejected
    rejects = [json.loads(line) for line in prepared.rejects()]
    assert len(rejects) == ledger.rejected
    assert all(one["reason"].strip() and one["remedy"].strip() and one["file"] == file for one in rejects)
    numbers = [one["line"] for one in rejects]
    assert numbers == sorted(set(numbers))
    assert there.issuperset(numbers)
    assert set(numbers).issuperset(number for number in there if not is_json(lines[number - 1]))


def is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def check_samples(prepared: Prepared, how: Preparation) -> None:
    (store,) = prepared.stores
    ledger = prepared.ledger
    assert int(store.lengths.sum()) == ledger.tokens
    assert int(store.labelled.sum()) == ledger.labelled
    assert len(store) == ledger.samples >= ledger.trained
    assert max(store.lengths, default=0) == ledger.longest <= how.max_length
    assert min(store.labelled, default=1) > 0
    for sample in store:
        whole = [Eyes().lay_out([(p.picture.width, p.picture.height)])[0] for p in sample.pictures]
        assert [tuple(sample.ids[p.start : p.stop].tolist()) for p in sample.pictures] == whole
        assert (sample.ids == IMAGE_ID).sum() == sum(map(len, whole)) - 2 * len(whole)
    stop = how.template.stop_id(how.tokenizer)
    if how.overlong != "cut":
        assert all(answer_ends(sample) <= {stop} for sample in store)


def answer_ends(sample: Sample) -> set[int]:
    """The last tokens of a conversation's learnt stretches; none of a plain text, which is learnt from its start."""
    learnt = sample.learnt
    if learnt[:2].any():
        return set()
    goes_on = np.append(learnt[1:], False)
    return set(sample.ids[learnt & ~goes_on].tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_recognised_or_refused_in_a_sentence(kind: str, registry: Registry, tmp_path: Path) -> None:
    """Nothing but a FtxError comes out of a file cut or overwritten anywhere, under any ending."""
    _, make = KINDS[kind]
    rnd = random.Random(kind)
    for ending in ("json", "jsonl", "csv", "tsv", "txt"):
        rows = [json.dumps(spoil(rnd, make(rnd))) for _ in range(5)]
        raw = bytearray(("[" + ",\n".join(rows) + "]" if ending == "json" else "\n".join(rows)).encode())
        for _ in range(rnd.choice((0, 1, 1, 5))):
            raw[rnd.randrange(len(raw))] = rnd.randrange(256)
        path = tmp_path / f"rows.{ending}"
        path.write_bytes(raw[: rnd.randrange(len(raw))] if rnd.random() < 0.3 else raw)
        with suppress(FtxError):
            opened = open_set(Files(path=str(path)), "auto", None, registry)
            for record in opened.source.records():
                with suppress(RowError):
                    opened.conversations(record)
