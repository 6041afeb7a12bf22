"""The steps of a pipeline run for real: trained, stopped, gone on with, proven and published to a git host."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftx.run import checkpoints_in, events, losses
from lfs_server import Fault, LfsHost
from pipelines import IMAGE, REPO, ROOT, TOKEN, await_step, begin, committed, git_host, program, project

# Every step is a process of its own that imports torch.
pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", name="path")
def path_with_ftx(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PATH with the program `ftx`."""
    return f"{program(tmp_path_factory.mktemp('program') / 'bin')}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LfsHost]:
    with git_host(tmp_path / "host") as server:
        yield server


def done(folder: Path, step: str, path: str, **more: str) -> tuple[int, str]:
    """Exit code of the step, and all it said."""
    process = begin(folder, step, environment(path, **more))
    said, _ = process.communicate(timeout=250)
    return process.returncode, said


def environment(path: str, **more: str) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if key not in ("FTX_CACHE", "RUN", "IMAGE")}
    return {**own, "PATH": path, "NO_PROXY": "127.0.0.1", **more}


def jenkins(folder: Path, path: str, commit: str) -> subprocess.Popen[str]:
    """A build of the Jenkinsfile, by Groovy alone."""
    java = Path(shutil.which("java") or "").resolve().parents[1]
    return subprocess.Popen(
        ["groovy", str(ROOT / "tests" / "run_jenkinsfile.groovy"), "Jenkinsfile"],
        cwd=folder,
        env=environment(path, JAVA_HOME=str(java), GIT_COMMIT=commit),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_training_is_stopped_gone_on_with_proven_and_published(
    ftx: Any, path: str, host: LfsHost, tmp_path: Path
) -> None:
    place = project(tmp_path / "project", steps=400)
    hub = ["--publish", "git", "--repo", REPO, "--set", f"host={host.url}", "--base", "ann/tiny-base"]
    assert ftx("ci", "init", "shell", "--merge", *hub, "--out", place, "--recipe", place / "recipe.yaml").code == 0
    run = place / "runs" / committed(place)

    process = begin(place, "all", environment(path))
    await_step(run, 5, process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=250)
    assert (process.returncode, "go on with --resume auto" in said) == (6, True), said
    saved = checkpoints_in(run)
    assert saved and not (run / "adapter").exists()

    code, said = done(place, "all", path)
    assert code == 0, said
    resumed = [event for event in events(run) if event["event"] == "resumed"]
    assert [Path(event["checkpoint"]).name for event in resumed] == [saved[-1].name]
    assert sorted(losses(run)) == list(range(1, 401))
    assert (run / "report" / "page.html").is_file()
    assert json.loads((run / "merged" / "verify.json").read_text("utf-8"))["passed"]

    # The host fails once, and the second try arrives.
    host.faults.append(Fault("GET", "info/refs", 503))
    tokens = {"FTX_GIT_TOKEN": TOKEN, "FTX_GIT_USER": "ann"}
    code, said = done(place, "publish", path, RETRY_AFTER="0", **tokens)
    assert (code, "trying once more" in said, TOKEN in said) == (0, True, False), said
    assert host.contents(REPO)["model.safetensors"] == (run / "merged" / "model.safetensors").read_bytes()

    # What is trained is not trained again; nobody publishes without a token.
    code, said = done(place, "train", path)
    assert (code, said) == (0, f"runs/{run.name} is trained\n")
    code, said = done(place, "publish", path, RETRY_AFTER="0")
    assert (code, said.count("FTX_GIT_TOKEN")) == (5, 2), said


def test_exit_codes_are_ftx_s(ftx: Any, path: str, tmp_path: Path) -> None:
    place = project(tmp_path / "project")
    assert ftx("ci", "init", "shell", "--out", place, "--recipe", place / "recipe.yaml").code == 0
    run = place / "runs" / committed(place)
    code, said = done(place, "train", path, TRAIN_LIMIT="0.01")
    assert code == 128 + signal.SIGTERM, said  # there was nothing to be saved yet
    code, said = done(place, "train", path)
    assert code == 0, said
    with (run / "adapter" / "adapter_model.safetensors").open("ab") as file:
        file.write(b"x")
    code, said = done(place, "verify", path)
    assert (code, "adapter_model.safetensors" in said) == (7, True), said
    with (place / "data" / "rows.jsonl").open("a", encoding="utf-8") as rows:
        rows.write('{"messages": 1}\n{"messages": 2}\n')
    code, said = done(place, "check", path, RUN="runs/other")
    assert (code, "rows.jsonl" in said) == (3, True), said


def test_jenkins_goes_on_in_the_same_build(ftx: Any, path: str, tmp_path: Path) -> None:
    place = project(tmp_path / "project", steps=400)
    words = ["--image", IMAGE, "--out", place, "--recipe", place / "recipe.yaml"]
    assert ftx("ci", "init", "jenkins", *words).code == 0
    commit = committed(place)
    process = jenkins(place, path, commit)
    await_step(place / "runs" / commit, 5, process)
    inside = psutil.Process(process.pid).children(recursive=True)
    (script,) = [one for one in inside if one.cmdline() == ["sh", "ci/ftx.sh", "train"]]
    script.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert re.findall(r"^sh .*ci/ftx.sh (\w+)$", said, re.MULTILINE) == ["check", "train", "train", "report", "verify"]
    assert said.count("resumed after step") == 1
    assert f"image {IMAGE}\nargs --entrypoint=" in said


def test_jenkins_ends_where_a_step_ends(ftx: Any, path: str, tmp_path: Path) -> None:
    place = project(tmp_path / "project")
    words = ["--image", IMAGE, "--out", place, "--recipe", place / "recipe.yaml"]
    assert ftx("ci", "init", "jenkins", *words).code == 0
    with (place / "data" / "rows.jsonl").open("a", encoding="utf-8") as rows:
        rows.write('{"messages": 1}\n{"messages": 2}\n')
    process = jenkins(place, path, committed(place))
    said, _ = process.communicate(timeout=250)
    assert (process.returncode, re.findall(r"^stage (.+)$", said, re.MULTILINE)) == (1, ["Check the data"]), said
