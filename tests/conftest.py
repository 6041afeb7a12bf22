"""Shared fixtures: the tiny reference model, small data, the command line run in this process."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Set before torch is imported: two workers with two threads each would fight for two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MODELSCOPE_API_MAX_RETRIES"] = "1"  # of questions, which otherwise wait for 15 seconds
os.environ["FTX_PLUGINS"] = "none"

import pytest
import torch

from ftx.checkpoint_files import Checkpoint
from ftx.redaction import forget_all

FIXTURES = Path(__file__).parent / "fixtures"
TINY = FIXTURES / "golden" / "internlm2_base"


def recorded_folder(name: str) -> Path:
    """The recorded model folder of that name, in FTX_GOLDEN or among the fixtures: cases may stand on others' bases."""
    places = [FIXTURES / "golden" / name]
    if named := os.environ.get("FTX_GOLDEN"):
        places.insert(0, Path(named) / name)
    return next((place for place in places if place.is_dir()), places[0])


def stored_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by their stored names."""
    checkpoint = Checkpoint.of(folder)
    return {name: tensor for shard in checkpoint.shards for name, tensor in checkpoint.read(shard).items()}


def assert_same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


def pytest_collection_finish() -> None:
    """What is imported stays: looking through all of it for garbage, again and again, took a fifteenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 20, 20)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@dataclass
class Result:
    """What a command gave back; `events` are the JSON lines of its stdout."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def ftx(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the real program in this process: ftx("train", "--model", ...)."""
    from ftx.cli import run

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture
def tiny() -> Path:
    """A real InternLM2 folder: 0.2 M random weights, official layout, 633 words."""
    return TINY


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twelve chat rows of unequal length."""
    return write_rows(tmp_path / "rows.jsonl", 12)


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in its own folder, so that nothing lands in the project or in the user's cache."""
    monkeypatch.setenv("FTX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("FTX_CONFIG", f"{tmp_path}-config")  # the user's logins are no test's
    forget_all()
    monkeypatch.chdir(tmp_path)


def closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder that may not be entered, not even by root, whom rights do not keep out."""
    folder.mkdir()
    stat = os.stat

    def refusing(path: Any, **given: Any) -> os.stat_result:
        if folder in (Path.cwd() / os.fspath(path)).parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **given)

    monkeypatch.setattr(os, "stat", refusing)


def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's pauses between attempts, of a hundredth of a second: without any, who waits for a process spins."""
    sleep = time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: sleep(min(seconds, 0.01)))


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_rows(path: Path, count: int) -> Path:
    made = [chat(f"What is {i}?" * (i % 3 + 1), f"It is {i}. " * (i % 4 + 1)) for i in range(count)]
    path.write_text("\n".join(json.dumps(row) for row in made) + "\n", "utf-8")
    return path
