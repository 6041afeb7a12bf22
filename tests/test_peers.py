"""Processes of one run that meet by variables, as containers do: one is killed, the others end with 8."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from ftx.run import checkpoints_in, losses
from test_stopping import wait_for_step

pytestmark = pytest.mark.system  # takes a minute: processes that wait for each other
STEPS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(rank: int, port: int, *arguments: object) -> subprocess.Popen[str]:
    meeting = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return subprocess.Popen(
        [sys.executable, "-m", "ftx", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            **{name: str(value) for name, value in meeting.items()},
        },
    )


def test_the_other_ends_with_8_and_both_go_on_from_the_last_checkpoint(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 12)
    few = ["--global-batch-size", 4, "--lr", "5e-3", "--set", "train.save_every=2"]
    flags = ["train", "--model", tiny, "--data", data, "--max-steps", STEPS, *few]
    out = tmp_path / "run"
    port = free_port()
    first, second = (start(rank, port, *flags, "--out", out) for rank in (0, 1))
    wait_for_step(out, 5)
    second.send_signal(signal.SIGKILL)
    _, err = first.communicate(timeout=120)
    second.communicate()
    assert first.returncode == 8, err
    assert "another process of this run ended or did not answer" in err
    assert "--resume auto" in err
    assert "Traceback" not in err
    kept = checkpoints_in(out)
    assert kept and not list(out.rglob(".*"))
    port = free_port()
    both = [start(rank, port, *flags, "--out", out, "--resume", "auto") for rank in (0, 1)]
    for process in both:
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
    assert ftx(*flags, "--out", tmp_path / "alone").code == 0
    together, alone = losses(out), losses(tmp_path / "alone")
    assert list(together) == list(range(1, STEPS + 1))
    assert max(abs(together[step] - alone[step]) for step in alone) < 1e-5


def test_a_process_that_never_comes_ends_the_waiting_with_8(tiny: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 4)
    flags = ["train", "--model", tiny, "--data", data, "--out", tmp_path / "run", "--set", "train.stall_seconds=2"]
    alone = start(0, free_port(), *flags)
    _, err = alone.communicate(timeout=120)
    assert alone.returncode == 8, err
    assert "train.stall_seconds is 2" in err
    assert not (tmp_path / "run").exists()
