"""`ftx run` with a real engine: what passes through, and every way in which it ends badly."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engines
from conftest import TINY, write_rows
from ftx.run import checkpoints_in, losses

pytestmark = pytest.mark.system
MOUNTS = [word for path in engines.NEEDED for word in ("--mount", path)]


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engines.have_engine().items():
            patch.setenv(name, value)
        tag = engines.stand_in()
        yield tag
        engines.docker("image", "rm", tag)


def start(image: str, *words: object, options: tuple[object, ...] = (), **more: Any) -> subprocess.Popen[str]:
    """`ftx run` of this checkout in a process of its own."""
    command = [sys.executable, "-m", "ftx", "run", "--image", image, *MOUNTS, *options, "--", *words]
    return subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **more},
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=250)
    return process.returncode, out, err


def inside(image: str, *words: object, options: tuple[object, ...] = ()) -> tuple[int, str, str]:
    return ended(start(image, *words, options=options))


def flags(data: Path, out: Path, steps: int = 400) -> list[object]:
    few = ["--max-steps", steps, "--global-batch-size", 4, "--set", "train.save_every=2"]
    return ["train", "--model", TINY, "--data", data, "--out", out, *few]


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    while not (out / "events.jsonl").exists() or step not in losses(out):
        if process.poll() is not None:
            pytest.fail(process.communicate()[1])
        time.sleep(0.05)


def container_of(image: str) -> str:
    (name,) = engines.docker("ps", "--filter", f"ancestor={image}", "--format", "{{.Names}}").stdout.split()
    return name


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return write_rows(tmp_path / "data" / "rows.jsonl", 8)


def test_output_files_and_codes_pass_through(image: str, data: Path, tmp_path: Path) -> None:
    code, out, err = inside(image, *flags(data, tmp_path / "runs" / "a", 2), "--json")
    assert code == 0, err
    assert [event["event"] for event in map(json.loads, out.splitlines())][-1] == "finished"
    assert (tmp_path / "runs/a/adapter/ftx.json").stat().st_uid == os.geteuid()
    code, out, err = inside(image, "data", "check", tmp_path / "nothing.jsonl")
    assert (code, out) == (3, "")
    assert len(err.splitlines()) == 1
    left = engines.docker("ps", "--all", "--filter", f"ancestor={image}", "--quiet").stdout
    assert left == ""


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "docker stop"])
def test_a_stop_saves_a_checkpoint_and_ends_with_6(image: str, data: Path, tmp_path: Path, way: str) -> None:
    out = tmp_path / "runs" / "a"
    process = start(image, *flags(data, out, 40000))
    wait_for_step(process, out, 3)
    if way == "docker stop":
        engines.docker("stop", container_of(image))
    else:
        process.send_signal(signal.Signals[way])
    code, _, err = ended(process)
    assert code == 6, err
    assert "go on with --resume auto" in err
    assert checkpoints_in(out)


def test_docker_kill_is_told_and_keeps_its_code(image: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "a"
    process = start(image, *flags(data, out, 40000))
    wait_for_step(process, out, 3)
    engines.docker("kill", container_of(image))
    code, _, err = ended(process)
    assert code == 137
    assert "the container was killed, from outside or" in err.splitlines()[-1]
    assert "--resume auto" in err


def test_too_little_memory_is_told_as_memory(image: str, data: Path, tmp_path: Path) -> None:
    code, _, err = inside(image, *flags(data, tmp_path / "runs" / "a"), options=("--memory", "100m"))
    assert code == 4, err
    assert "ran out of memory" in err
    assert "--memory above 100m" in err


def test_an_image_that_is_not_here(image: str) -> None:
    code, out, err = inside("ftx-test:nowhere", "plan", "--json")
    assert code == 2
    assert json.loads(out)["kind"] == "container"
    assert err == (
        "ftx: there is no image ftx-test:nowhere here; fetch it: docker pull ftx-test:nowhere, or name "
        "another with --image or FTX_IMAGE\n"
    )


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there are GPUs here")
def test_gpus_that_the_engine_cannot_give(image: str) -> None:
    code, _, err = inside(image, "plan", options=("--gpus", "all"))
    assert code == 2
    assert err.startswith("ftx: docker can hand no GPU to a container here: install the NVIDIA Container Toolkit")
    assert len(err.splitlines()) == 1


def test_an_image_for_another_machine(image: str) -> None:
    other = engines.foreign()
    try:
        code, _, err = inside(other, "plan")
        assert code == 2
        assert err.startswith(f"ftx: image {other} is for arm64 and this machine is ")
        assert len(err.splitlines()) == 1
    finally:
        engines.docker("image", "rm", other)


def test_an_engine_that_does_not_answer(image: str, tmp_path: Path) -> None:
    code, _, err = ended(start(image, "plan", DOCKER_HOST=f"unix://{tmp_path}/none.sock"))
    assert code == 2
    assert "docker is here but its engine does not answer" in err
    assert len(err.splitlines()) == 1


def test_a_folder_that_the_user_inside_may_not_read(image: str, data: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # the working folder
    data.parent.chmod(0o700)
    (tmp_path / "runs").mkdir(mode=0o777)
    (tmp_path / "runs").chmod(0o777)
    other = ("--user", "12345:12345")
    code, _, err = inside(image, *flags(data, tmp_path / "runs" / "a"), options=other)
    assert code == 2
    assert f"{data.parent} is not open to the user 12345:12345" in err
    assert f"chmod -R o+rX {data.parent}" in err


def test_what_would_be_lost_with_the_container_cannot_be_written(image: str, tmp_path: Path) -> None:
    code, _, err = inside(image, "data", "identity", "--name", "Ada", "--rows", 4)
    assert code == 10, err
    assert "Read-only file system" in err
    assert len(err.splitlines()) == 1


def test_a_full_volume_keeps_the_old_checkpoint(image: str, data: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", disk], check=True)
    try:
        keep = ["--set", "train.keep_checkpoints=99"]
        code, _, err = inside(image, *flags(data, disk / "run", 40000), *keep)
        assert code == 10, err
        assert "No space left on device" in err
        assert checkpoints_in(disk / "run")
        assert not list(disk.rglob(".*"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_key_reaches_the_server_and_nobody_else(image: str, tmp_path: Path) -> None:
    key = "key-for-this-test-alone"
    process = start(image, "serve", TINY, "--port", 0, "--json", FTX_API_KEY=key)
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    told = engines.docker("container", "inspect", container_of(image)).stdout
    assert key not in told
    assert key not in "".join(path.read_text() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{url}/models")
    asked = urllib.request.Request(f"{url}/models", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(asked) as answer:
        assert json.load(answer)["data"]
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert code == 0, err


@pytest.fixture
def project(ftx: Any, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with the files of `ftx deploy compose`, and an overlay for the stand-in image."""
    folder = tmp_path / "project"
    assert ftx("deploy", "compose", "--out", folder).code == 0
    shutil.copytree(TINY, folder / "base")
    write_rows(folder / "rows.jsonl", 8)
    (folder / "recipe.yaml").write_text(
        "model: base\ndata: rows.jsonl\nout: runs/a\n"
        "train: {max_steps: 120, global_batch_size: 8, save_every: 2, stall_seconds: 60}\n"
    )
    own = {"volumes": [f"{path}:{path}:ro" for path in engines.NEEDED]}
    overlay = {"services": dict.fromkeys(("train", "node0", "node1"), own)}
    (folder / "compose.stand-in.json").write_text(json.dumps(overlay))
    user = {"FTX_IMAGE": image, "FTX_UID": str(os.geteuid()), "FTX_GID": str(os.getegid()), "HOME": "/tmp"}
    for name, value in {**user, "COMPOSE_PROJECT_NAME": image.replace(":", "-"), "PWD": str(folder)}.items():
        monkeypatch.setenv(name, value)
    yield folder
    compose(folder, "--profile", "*", "down", "--volumes", "--timeout", "1")


def compose(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    files = ["-f", "compose.yaml", "-f", "compose.stand-in.json"]
    environment = {**os.environ, **more}
    return subprocess.run(
        ["docker", "compose", *files, *words], cwd=folder, capture_output=True, text=True, env=environment
    )


def code_of(folder: Path, service: str) -> int:
    (container,) = compose(folder, "ps", "--all", "--quiet", service).stdout.split()
    return int(engines.docker("wait", container).stdout)


def test_compose_knows_all_of_it(project: Path) -> None:
    for files in (["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]):
        given = [word for file in files for word in ("-f", file)]
        done = subprocess.run(
            ["docker", "compose", *given, "--profile", "*", "config", "-q"], cwd=project, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.timeout(900)
def test_two_containers_train_one_is_killed_and_both_go_on(project: Path) -> None:
    up = compose(project, "up", "--detach", "node0", "node1")
    assert up.returncode == 0, up.stderr
    node0, node1 = (compose(project, "ps", "--quiet", name).stdout.strip() for name in ("node0", "node1"))
    run = project / "runs" / "a"
    while not (run / "events.jsonl").exists() or 3 not in losses(run):
        running = engines.docker("container", "inspect", "--format", "{{.State.Running}}", node0).stdout.strip()
        assert running == "true", compose(project, "logs", "node0").stdout
    engines.docker("kill", node1)
    assert code_of(project, "node0") == 8
    said = compose(project, "logs", "node0").stdout
    assert "another process of this run ended or did not answer" in said
    assert "Traceback" not in said
    kept = checkpoints_in(run)
    assert kept and not list((run / "checkpoints").glob(".*"))
    again = compose(project, "up", "--detach", "node0", "node1", FTX_RESUME="--resume auto")
    assert again.returncode == 0, again.stderr
    assert [code_of(project, name) for name in ("node0", "node1")] == [0, 0], compose(project, "logs").stdout
    assert list(losses(run)) == list(range(1, 121))
    assert (run / "adapter" / "ftx.json").is_file()
