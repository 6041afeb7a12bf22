"""The xtuner image for real: XTuner 0.1.23 trains the tutorials' personal assistant on a processor, ftx reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftx.checkpoint_files import read_json
from image_parts import OFFLINE, Engine, engine
from xtuner_engine import BASE, write_run

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

ROWS = 121  # 34 packed rows: below that XTuner's warm-up ends at once and its rate stays where it begins
ITERATIONS = 68


@pytest.fixture(scope="session")
def docker() -> Engine:
    return engine()


@pytest.fixture(scope="session")
def image(docker: Engine) -> str:
    return docker.build("xtuner")


@pytest.fixture
def run(docker: Engine, image: str, tmp_path: Path) -> Path:
    """A folder that anybody may write, with all that a run needs."""
    folder = tmp_path / "run"
    write_run(folder, ROWS)
    for path in (tmp_path, *tmp_path.parents[:2], folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_relative_to(folder) else path.stat().st_mode | 0o055)
    docker.docker("run", "--rm", *OFFLINE, *stranger(folder), "--entrypoint", "python", image, "fetch.py")
    return folder


def stranger(folder: Path) -> tuple[str, ...]:
    return ("--user", "12345", "-v", f"{folder}:/workspace")


def ftx_run(docker: Engine, folder: Path, image: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`ftx xtuner run` as its users type it, in `folder`."""
    command = [sys.executable, "-m", "ftx", "xtuner", "run", "--image", image, "--", *words]
    paths = {"PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(command, cwd=folder, env={**docker.environment, **paths}, capture_output=True, text=True)


def test_xtuner_trains_the_tutorials_config_and_ftx_reads_the_result(
    docker: Engine, image: str, run: Path, ftx: Any
) -> None:
    def xtuner(*words: str) -> str:
        done = docker.docker("run", "--rm", *OFFLINE, *stranger(run), image, *words, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout + done.stderr

    said = xtuner("train", "config.py", "--work-dir", "wd", "--seed", "42")
    assert f"Iter(train) [{ITERATIONS}/{ITERATIONS}]" in said
    xtuner("convert", "pth_to_hf", "config.py", f"wd/iter_{ITERATIONS}.pth", "hf")
    checkpoint = run / "wd" / f"iter_{ITERATIONS}.pth"
    assert ftx("xtuner", "adapter", checkpoint, "--base", BASE, "--out", "adapter").code == 0
    assert ftx("xtuner", "adapter", run / "hf", "--base", BASE, "--out", "half").code == 0
    assert ftx("xtuner", "merge", checkpoint, "--base", BASE, "--out", "ours", "--dtype", "auto").code == 0
    assert read_json(Path("adapter/adapter_config.json"))["lora_alpha"] == 16
    assert read_json(Path("ours/config.json"))["model_type"] == "internlm2"


def test_ftx_runs_it_with_its_exit_codes(docker: Engine, image: str, run: Path) -> None:
    listed = ftx_run(docker, run, image, "list-cfg", "-p", "internlm2_chat_1_8b_qlora_oasst1_e3")
    assert (listed.returncode, "internlm2_chat_1_8b_qlora_oasst1_e3" in listed.stdout) == (0, True)
    gone = ftx_run(docker, run, image, "train", "gone.py")
    assert gone.returncode == 1
    assert "Cannot find gone.py" in gone.stderr
    assert ftx_run(docker, run, image, "trian").returncode == 2


def test_it_stops_when_it_is_told_to(docker: Engine, image: str, run: Path) -> None:
    words = ("train", "config.py", "--work-dir", "wd")
    with docker.started(image, *words, options=stranger(run)) as container:
        docker.wait_for_line(container, "Iter(train)")
        docker.docker("stop", "-t", "60", container)
        assert docker.inspect(container)["State"]["ExitCode"] == 143
