"""The command line: quick, exact exit codes, JSON that is JSON."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftx.errors import FtxError

HEAVY = ("torch", "transformers", "peft", "accelerate", "pyarrow", "openpyxl", "numpy")


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["train", "--help"], ["quickstart", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from ftx.cli import run; code = run(sys.argv[1:]); "
        f"print(sorted(m for m in {HEAVY} if m in sys.modules), code)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr


def test_usage_mistakes_exit_2_with_one_sentence(ftx: Any) -> None:
    wrong = ftx("trian")
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err == "ftx: no command 'trian'; did you mean 'train'?\n"
    assert ftx("train", "--nope").code == 2
    assert ftx("chat").code == 2


def test_version_and_help(ftx: Any) -> None:
    assert ftx("--version").out == "ftx 0.1.0\n"
    assert ftx("-h").code == 0


def test_a_bug_keeps_its_traceback(ftx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftx.cli import plugins

    monkeypatch.setattr(plugins, "Console", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ftx("plugins")


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--model", "TINY", "--data", "ROWS", "--out", LONG),
        ("plan", "--model", LONG, "--data", "ROWS"),
        ("merge", LONG),
        ("app", "new", "gradio_chat", "--model", "TINY", "--out", LONG),
        ("chat", LONG),
        ("data", "check", LONG),
        ("data", "split", "ROWS", LONG),
        ("data", "convert", "ROWS", f"{LONG}.jsonl"),
    ],
    ids=lambda arguments: " ".join(arguments[:2])[:12],
)
def test_a_name_too_long_for_a_file_is_a_mistake(
    arguments: tuple[str, ...], ftx: Any, tiny: Path, rows: Path, tmp_path: Path
) -> None:
    given = {"TINY": str(tiny), "ROWS": str(rows)}
    refused = ftx(*(given.get(one, one) for one in arguments))
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.endswith(f"ftx: {'x' * 60}... is too long for the name of a file; give a shorter one\n")
    assert list(tmp_path.iterdir()) == [rows]


def test_merge_refuses_an_out_too_long_for_a_file(ftx: Any, tiny: Path, rows: Path) -> None:
    assert ftx("train", "--model", tiny, "--data", rows, "--out", "run", "--max-steps", 1).code == 0
    refused = ftx("merge", "run", "--out", LONG)
    assert (refused.code, "is too long for the name of a file" in refused.err) == (2, True)


def test_a_tables_heads_and_title_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from ftx.console import Console

    Console().table("of [/a]", ["run [/b]"], [["[/c]"]])
    out = capsys.readouterr().out
    assert all(one in out for one in ("of [/a]", "run [/b]", "[/c]"))


def test_exit_codes_are_the_documented_ones() -> None:
    from ftx.cli.group import CommandGroup

    codes: dict[str, int] = {}
    waiting = [FtxError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        codes[kind.__name__] = kind.exit_code
    documented = {
        "RecipeError": 2, "ModelError": 2, "DataError": 3, "OutOfMemory": 4, "Interrupted": 6,
        "VerificationError": 7, "TrainingError": 9, "StorageError": 10,
    }  # fmt: skip
    assert {name: codes[name] for name in documented} == documented
    assert "9 training diverged" in str(CommandGroup().epilog)


def test_train_writes_json_lines_and_nothing_else(ftx: Any, tiny: Path, rows: Path) -> None:
    result = ftx("train", "--model", tiny, "--data", rows, "--max-steps", 2, "--json")
    assert result.code == 0
    assert [e["event"] for e in result.events] == ["started", "step", "step", "finished"]
    assert result.err == ""


def test_an_error_is_json_too(ftx: Any, tiny: Path) -> None:
    result = ftx("train", "--model", tiny, "--data", "none.jsonl", "--json")
    (error,) = result.events
    assert result.code == error["code"] == 3
    assert error["problems"] == ["none.jsonl does not exist"]


def test_a_reader_that_goes_away_is_no_bug() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    program = f"{sys.executable} -m ftx plan --schema | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")


def test_python_m_ftx_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ftx", "trian"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.returncode == 2


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet", "xlsx"])
def test_each_kind_of_file_trains(ending: str, ftx: Any, tiny: Path, tmp_path: Path) -> None:
    import csv
    import json

    import openpyxl
    import pyarrow
    import pyarrow.parquet

    table = [{"instruction": f"Say {i}.", "input": "", "output": f"{i}!"} for i in range(6)]
    path = tmp_path / f"rows.{ending}"
    if ending == "json":
        path.write_text(json.dumps(table))
    elif ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, table)))
    elif ending == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, table[0])
            writer.writeheader()
            writer.writerows(table)
    elif ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    else:
        book = openpyxl.Workbook()
        for row in [list(table[0]), *(list(row.values()) for row in table)]:
            book.active.append(row)
        book.save(path)
    for method in ("lora", "qlora", "full"):
        out = tmp_path / method
        flags = ["--plugin", "internlm2", "--model", tiny, "--data", path, "--method", method, "--out", out]
        result = ftx("train", *flags, "--max-steps", 1)
        assert result.code == 0, result.err
        assert json.loads((out / "plan.json").read_text())["data"]["rows"]["kept"] == 6
