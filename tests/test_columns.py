"""Tables with columns of their own: the Excel corpus of a course, trained by one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openpyxl
import pytest

COACH = "You are a professional workplace coach."


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A sheet with `q`, `a` and a column that nobody asked for."""
    book = openpyxl.Workbook()
    for row in [("no", "q", "a"), *((i, f"我压力很大 {i}", f"休息一下 {i}") for i in range(6))]:
        book.active.append(row)
    book.save(tmp_path / "corpus.xlsx")
    return tmp_path / "corpus.xlsx"


def test_an_excel_corpus_trains_by_one_command(ftx: Any, tiny: Path, corpus: Path, tmp_path: Path) -> None:
    flags = ["--model", tiny, "--data", corpus, "--columns", "input=q, output=a", "--system", COACH]
    result = ftx("train", *flags, "--max-steps", 1, "--out", tmp_path / "run")
    assert result.code == 0, result.err
    (told,) = json.loads((tmp_path / "run" / "plan.json").read_text())["data"]["sets"]
    assert (told["format"], told["columns"], told["system"]) == ("input_output", {"input": "q", "output": "a"}, COACH)


def test_mapped_rows_say_what_the_sheet_says(ftx: Any, tiny: Path, corpus: Path) -> None:
    from ftx.data.sets import open_set
    from ftx.plugins import load_registry
    from ftx_sources.files import Files

    registry = load_registry("none")
    opened = open_set(Files(path=str(corpus)), "auto", COACH, registry, {"input": "q", "output": "a"})
    record = next(opened.source.records())
    conversation = opened.conversations(record)[0]
    assert [m.content for m in conversation.messages] == [COACH, "我压力很大 0", "休息一下 0"]


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (
            ["--columns", "input=question,output=a"],
            3,
            "row 2: there is no column 'question'; map one of 'no', 'q', 'a'",
        ),
        (["--columns", "input"], 2, "--columns input: write it as input=q,output=a"),
        (["--columns", "input=q,output="], 2, "--columns input=q,output=: write it as input=q,output=a"),
        ([], 3, "has keys 'no', 'q', 'a', which is no known format"),
    ],
)
def test_columns_that_do_not_fit_are_refused(
    flags: list[str], code: int, sentence: str, ftx: Any, tiny: Path, corpus: Path
) -> None:
    result = ftx("plan", "--model", tiny, "--data", corpus, *flags)
    assert result.code == code
    assert sentence in result.err


def test_they_go_with_data(ftx: Any, tiny: Path) -> None:
    assert "--system goes with --data FILE" in ftx("plan", "--model", tiny, "--system", COACH).err


def test_a_recipe_maps_columns_too(ftx: Any, tiny: Path, corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {tiny}\ndata: {{sets: [{{path: {corpus}, format: input_output, columns: {{input: q, output: a}}}}]}}\n"
    )
    (plan,) = ftx("plan", recipe, "--json").events
    assert plan["data"]["rows"]["kept"] == 6
