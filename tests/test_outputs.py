"""The real program whose standard output, or error, has no reader or no room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftx.artifact import Artifact
from ftx.run import events

NO_ROOM = "ftx: standard output could not be written: No space left on device; everything else was done\n"
PRINTING = (
    ("plan", "--schema"),
    ("data", "check", "ROWS"),
    ("chat", "MODEL", "--once", "Hi", "--max-new-tokens", "2", "--json"),
)


def ended(stdout: int, *arguments: object, stderr: int = subprocess.PIPE, stdin: int | None = None) -> tuple[int, str]:
    """The exit code of `ftx`, and what it said on stderr."""
    command = [sys.executable, "-m", "ftx", *map(str, arguments)]
    about = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        command, stdin=stdin, stdout=stdout, stderr=stderr, env=about, text=True, timeout=120, check=False
    )
    return done.returncode, done.stderr or ""


@pytest.fixture
def full() -> Iterator[int]:
    with Path("/dev/full").open("wb") as file:
        yield file.fileno()


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def training(model: Path, rows: Path, *more: str) -> list[object]:
    few = ["--max-steps", 3, "--global-batch-size", 4, "--set", "train.save_every=2"]
    return ["train", "--model", model, "--data", rows, "--out", "run", *few, *more]


def sealed() -> None:
    assert Artifact.open(Path("run/adapter")).kind == "adapter"
    names = [event["event"] for event in events(Path("run"))]
    assert (names.count("step"), names[-1]) == (3, "finished")


def test_training_and_merging_go_on_without_a_reader(unread: int, tiny: Path, rows: Path) -> None:
    assert ended(unread, *training(tiny, rows, "--json")) == (0, "")
    sealed()
    assert ended(unread, "merge", "run", "--json") == (0, "")
    assert Artifact.open(Path("run/merged")).kind == "merged"


def test_training_goes_on_when_nobody_reads_what_it_says(unread: int, tiny: Path, rows: Path) -> None:
    """As in `ftx train ... 2>&1 | head`."""
    assert ended(unread, *training(tiny, rows), stderr=unread)[0] == 0
    sealed()


def test_training_goes_on_when_its_output_has_no_room(full: int, tiny: Path, rows: Path) -> None:
    assert ended(full, *training(tiny, rows, "--json")) == (10, NO_ROOM)
    sealed()


@pytest.mark.parametrize("command", PRINTING, ids=" ".join)
def test_commands_that_print(command: tuple[str, ...], full: int, unread: int, tiny: Path, rows: Path) -> None:
    named = {"MODEL": tiny, "ROWS": rows}
    arguments = [named.get(word, word) for word in command]
    assert ended(full, *arguments) == (10, NO_ROOM)
    assert ended(unread, *arguments) == (0, "")


def test_another_failure_keeps_its_code(full: int) -> None:
    code, said = ended(full, "plan", "missing.yaml", "--json")
    assert code == 2
    assert "missing.yaml" in said and "Traceback" not in said


def test_a_chat_ends_with_its_reader(unread: int, tiny: Path) -> None:
    """There are always more questions."""
    with subprocess.Popen(["yes", "Hi"], stdout=subprocess.PIPE) as questions:
        assert questions.stdout
        done = ended(unread, "chat", tiny, "--max-new-tokens", 2, "--json", stdin=questions.stdout.fileno())
        questions.kill()
    assert done == (0, "")


def test_output_that_can_be_written_is_whole(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        assert ended(file.fileno(), "plan", "--schema", "--json") == (0, "")
    assert json.loads((tmp_path / "out").read_text("utf-8"))["type"] == "object"
