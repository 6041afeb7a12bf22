"""Pipelines run for real in containers of the cpu image: GitLab's by gitlab-ci-local, the shell's by docker run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ftx.run import events
from hub_servers import git
from lfs_server import LfsHost
from pipelines import REPO, TOKEN, await_step, begin, committed, git_host, node_tool, project

if TYPE_CHECKING:
    from image_parts import Engine

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]
HELPER = "FROM %s\nRUN apt-get update -qq && apt-get install -y -qq --no-install-recommends git rsync zip"
# Asks the job's script to stop, as the runner does when a job is cancelled.
STOP = (
    'for one in /proc/[0-9]*; do if tr "\\0" " " <"$one/cmdline" | grep -q "^sh ci/ftx.sh train"; then '
    'kill -TERM "${one#/proc/}"; fi; done'
)


@pytest.fixture(scope="module")
def docker() -> Engine:
    from image_parts import engine

    return engine()


@pytest.fixture
def image(docker: Engine) -> Iterator[str]:
    """The cpu image under a name that no other container has."""
    name = f"ftx-pipeline:{uuid.uuid4().hex[:12]}"
    docker.docker("tag", docker.build("cpu"), name)
    yield name
    docker.docker("rmi", name)


@pytest.fixture(scope="module")
def helper(docker: Engine) -> str:
    """The image that gitlab-ci-local copies files with."""
    from image_parts import BASE

    command = ["docker", "build", "--quiet", "--tag", "ftx-pipeline-helper", "-"]
    built = subprocess.run(command, input=HELPER % BASE, env=dict(docker.environment), capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return "ftx-pipeline-helper"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LfsHost]:
    with git_host(tmp_path / "host") as server:
        yield server


@pytest.fixture
def place(ftx: Any, image: str, host: LfsHost, tmp_path: Path) -> Path:
    """A project that is committed and pushed, with its pipeline."""
    made = project(tmp_path / "project", steps=400)
    hub = ["--publish", "git", "--repo", REPO, "--set", f"host={host.url}"]
    words = ["--merge", "--image", image, *hub, "--out", made, "--recipe", made / "recipe.yaml"]
    result = ftx("ci", "init", "gitlab", *words)
    assert result.code == 0, result.err
    variables = {"FTX_GIT_TOKEN": TOKEN, "FTX_GIT_USER": "ann", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    lines = "".join(f"{key}={value}\n" for key, value in variables.items())
    (tmp_path / "variables").write_text(lines, "utf-8")
    committed(made)
    git(made, "remote", "add", "origin", "ssh://git@git.example.org/ann/project.git")
    git(made, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(made, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    return made


def pipeline(place: Path, docker: Engine, helper: str, *words: str) -> subprocess.Popen[str]:
    """Run the pipeline that somebody starts on the default branch."""
    how = ["--pull-policy", "if-not-present", "--helper-image", helper, "--network", "host", "--no-color"]
    how += ["--variable", "CI_PIPELINE_SOURCE=web", "--variables-file", "../variables", "--concurrency", "1"]
    return subprocess.Popen(
        [*node_tool("gitlab-ci-local"), *how, *words],
        cwd=place,
        env=dict(docker.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def container_of(image: str, docker: Engine) -> str:
    listed = docker.docker("ps", "--format", "{{.Image}} {{.Names}}").stdout.splitlines()
    (name,) = [line.split()[1] for line in listed if line.split()[0] == image]
    return name


def test_the_pipeline_is_stopped_gone_on_with_proven_and_published(
    place: Path, docker: Engine, image: str, helper: str, host: LfsHost
) -> None:
    process = pipeline(place, docker, helper)
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        if re.match(r"train +> step [1-9]\d*/400", line) and "stopped after" not in said:
            docker.docker("exec", container_of(image, docker), "sh", "-c", STOP)
            break
    said += process.communicate(timeout=1200)[0]
    assert process.returncode != 0
    assert "go on with --resume auto" in said, said
    assert re.search(r"FAIL +train", said), said

    process = pipeline(place, docker, helper)
    said, _ = process.communicate(timeout=1200)
    assert (process.returncode, "resumed after step" in said) == (0, True), said
    assert [job for job in ("check", "train", "verify") if re.search(rf"PASS +{job}", said)] == [
        "check",
        "train",
        "verify",
    ]
    assert "publish" not in re.findall(r"(?:PASS|FAIL|WARN) +(\w+)", said)  # nobody asked for it
    (run,) = (place / "runs").iterdir()
    assert (run / "report" / "page.html").is_file()
    assert not list((run / "checkpoints").glob("*/*"))  # the artefact is the result
    assert [event["event"] for event in events(run)].count("resumed") == 1

    process = pipeline(place, docker, helper, "--manual", "publish")
    said, _ = process.communicate(timeout=1200)
    assert (process.returncode, bool(re.search(r"PASS +publish", said))) == (0, True), said
    assert TOKEN not in said
    assert len(host.contents(REPO)["model.safetensors"]) == (run / "merged" / "model.safetensors").stat().st_size


def test_data_that_is_refused_ends_the_pipeline(place: Path, docker: Engine, helper: str) -> None:
    with (place / "data" / "rows.jsonl").open("a", encoding="utf-8") as rows:
        rows.write('{"messages": 1}\n{"messages": 2}\n')
    process = pipeline(place, docker, helper)
    said, _ = process.communicate(timeout=1200)
    assert process.returncode != 0
    assert re.search(r"FAIL +check", said), said
    assert "train" not in re.findall(r"(?:PASS|FAIL) +(\w+)", said)
    assert not (place / "runs").exists()


def test_the_shell_s_steps_run_in_the_image_and_hand_a_signal_on(
    ftx: Any, docker: Engine, image: str, tmp_path: Path
) -> None:
    place = project(tmp_path / "project", steps=400)
    words = ["--image", image, "--out", place, "--recipe", place / "recipe.yaml"]
    assert ftx("ci", "init", "shell", *words).code == 0
    run = place / "runs" / committed(place)
    own = {key: value for key, value in docker.environment.items() if key not in ("FTX_CACHE", "RUN", "IMAGE")}
    env = {**own, "DOCKER_ARGS": "--network none --env OMP_NUM_THREADS=1"}
    process = begin(place, "train", env)
    await_step(run, 5, process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=250)
    assert (process.returncode, "go on with --resume auto" in said) == (6, True), said
    process = begin(place, "train", env)
    said, _ = process.communicate(timeout=250)
    assert (process.returncode, "resumed after step" in said) == (0, True), said
    assert (run / "adapter" / "ftx.json").stat().st_uid == os.getuid()
