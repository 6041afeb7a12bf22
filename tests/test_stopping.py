"""The real program in a process of its own, stopped in the ways that happen: signals, kill -9, a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from forked import Forked
from ftx.run import checkpoints_in, events, losses

# Runs `ftx` with a plugin whose body the test gives; `step` is the step just done.
PROGRAM = """
import sys, time, resource
from ftx import hookimpl, plugins
from ftx.cli import group, run

class Plugin:
    @hookimpl
    def ftx_step_done(self, run, step):
{body}

def load(strangers=None):
    registry = plugins.load_registry(strangers)
    registry.add(Plugin(), plugins.Origin("test", "test", "0"))
    return registry

group.load_registry = load
sys.exit(run(sys.argv[1:]))
"""


def start(body: str, *arguments: object) -> Forked:
    program = PROGRAM.format(body=textwrap.indent(textwrap.dedent(body).strip(), " " * 8))
    out = Path(str(arguments[arguments.index("--out") + 1]))
    return Forked(program, *arguments, said=out.with_name("said"))


def flags(model: Path, data: Path, out: Path) -> list[object]:
    few = ["--max-steps", 6, "--global-batch-size", 4, "--lr", "5e-3", "--set", "train.save_every=2"]
    return ["train", "--model", model, "--data", data, "--out", out, *few]


def wait_for_step(out: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (out / "events.jsonl").exists() and step in losses(out):
            return
        time.sleep(0.05)
    pytest.fail(f"step {step} was never logged")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, float]]:
    """A run nobody disturbs, and its data."""
    from conftest import TINY, write_rows

    folder = tmp_path_factory.mktemp("unbroken")
    data = write_rows(folder / "rows.jsonl", 12)
    process = start("pass", *flags(TINY, data, folder / "run"))
    _, err = process.communicate()
    assert process.returncode == 0, err
    return data, losses(folder / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_a_checkpoint_and_exits_6(
    ftx: Any, number: signal.Signals, tiny: Path, tmp_path: Path, unbroken: tuple[Path, dict[int, float]]
) -> None:
    data, expected = unbroken
    out = tmp_path / "run"
    process = start("time.sleep(2 if step == 3 else 0)", *flags(tiny, data, out))
    wait_for_step(out, 3)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 6
    assert "stopped after step 3 of 6; go on with --resume auto" in err
    assert ftx(*flags(tiny, data, out), "--resume", "auto").code == 0
    assert losses(out) == expected


def test_a_second_sigterm_asks_for_nothing_more(tiny: Path, tmp_path: Path, rows: Path) -> None:
    twice = "import signal; [signal.raise_signal(signal.SIGTERM) for _ in range(2 * (step == 3))]"
    process = start(twice, *flags(tiny, rows, tmp_path / "run"))
    _, err = process.communicate()
    assert (process.returncode, "go on with --resume auto" in err) == (6, True), err


def test_a_second_ctrl_c_stops_at_once_and_spoils_nothing(
    ftx: Any, tiny: Path, tmp_path: Path, unbroken: tuple[Path, dict[int, float]]
) -> None:
    data, expected = unbroken
    out = tmp_path / "run"
    process = start("time.sleep(60 if step == 5 else 0)", *flags(tiny, data, out))
    wait_for_step(out, 5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "stopped at once" in err
    assert "Traceback" not in err
    assert [p.name for p in checkpoints_in(out)] == ["step-00000002", "step-00000004"]
    assert ftx(*flags(tiny, data, out), "--resume", "auto").code == 0
    assert losses(out) == expected


def test_kill_9_and_resume(ftx: Any, tiny: Path, tmp_path: Path, unbroken: tuple[Path, dict[int, float]]) -> None:
    data, expected = unbroken
    out = tmp_path / "run"
    process = start("time.sleep(60 if step == 5 else 0)", *flags(tiny, data, out))
    wait_for_step(out, 5)
    process.kill()
    process.communicate()
    assert ftx(*flags(tiny, data, out), "--resume", "auto").code == 0
    assert losses(out) == expected


def test_a_write_that_fails_keeps_the_old_checkpoint(
    ftx: Any, tiny: Path, tmp_path: Path, unbroken: tuple[Path, dict[int, float]]
) -> None:
    """The kernel itself refuses to let files grow, as a quota does."""
    data, expected = unbroken
    out = tmp_path / "run"
    body = "if step == 3: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))"
    process = start(body, *flags(tiny, data, out))
    _, err = process.communicate()
    assert process.returncode == 10
    assert "step-00000004 could not be written" in err
    assert "Traceback" not in err
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-00000002"]
    assert ftx(*flags(tiny, data, out), "--resume", "auto").code == 0
    assert losses(out) == expected


@pytest.mark.system
def test_a_full_disk_keeps_the_old_checkpoint(ftx: Any, tiny: Path, tmp_path: Path, rows: Path) -> None:
    """A real file system of 700 KiB, mounted for this test alone; a checkpoint takes some 300 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", disk], check=True)
    try:
        arguments = [*flags(tiny, rows, disk / "run"), "--set", "train.keep_checkpoints=9"]
        process = start("pass", *arguments)
        _, err = process.communicate()
        assert process.returncode == 10, err
        assert "No space left on device" in err
        (newest,) = checkpoints_in(disk / "run")[-1:]
        assert json.loads((newest / "state.json").read_text())["step"] >= 2
        assert not list(disk.rglob(".*"))
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert ftx(*arguments, "--resume", "auto").code == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ftx"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run([*launch, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=200)


def test_two_processes_compute_what_one_does(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    """Rows of unequal length, a last batch that leaves one process without rows, a kept single result."""
    from conftest import write_rows

    data = write_rows(tmp_path / "rows.jsonl", 9)
    more = ["--max-steps", 5, "--global-batch-size", 4, "--micro-batch-size", 1, "--lr", "5e-3"]
    assert ftx("train", "--model", tiny, "--data", data, "--out", tmp_path / "one", *more).code == 0
    asked = ["--set", "eval.questions=hello", "--set", "eval.every=2", "--set", "eval.max_new_tokens=3"]
    done = torchrun("train", "--model", tiny, "--data", data, "--out", tmp_path / "two", *more, *asked)
    assert done.returncode == 0, done.stderr
    assert [e["step"] for e in events(tmp_path / "two") if e["event"] == "sample"] == [0, 2, 4, 5]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(two) == [1, 2, 3, 4, 5]
    assert list(two.values()) == pytest.approx(list(one.values()), abs=1e-6)
