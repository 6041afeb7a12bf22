"""The cpu image for real: built once, run as strangers run it, stopped and starved in the ways that happen."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import TINY, write_rows
from image_parts import ROOT, Engine, engine

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

STRANGER = ("--user", "12345")
MODEL = ("-v", f"{TINY}:/tiny:ro")
FEW = ("--global-batch-size", 4, "--lr", "5e-3", "--set", "train.save_every=1000")


@pytest.fixture(scope="session")
def docker() -> Engine:
    return engine()


@pytest.fixture(scope="session")
def image(docker: Engine) -> str:
    return docker.build("cpu")


@pytest.fixture
def rows(tmp_path: Path) -> tuple[str, str]:
    """Options that mount 12 rows as /rows/rows.jsonl for everyone to read."""
    folder = tmp_path / "rows"
    folder.mkdir()
    write_rows(folder / "rows.jsonl", 12)
    for path in (tmp_path, *tmp_path.parents[:2], folder, folder / "rows.jsonl"):
        path.chmod(path.stat().st_mode | 0o055)
    return "-v", f"{folder}:/rows:ro"


def training(out: str, *more: object) -> tuple[object, ...]:
    return ("train", "--model", "/tiny", "--data", "/rows/rows.jsonl", "--out", out, *FEW, *more)


def test_the_quickstart_runs_as_any_user_without_network_on_a_read_only_root(docker: Engine, image: str) -> None:
    with docker.volume() as work:
        mount = ("-v", f"{work}:/workspace")
        done = docker.ftx(image, "quickstart", "--name", "Ada", "--out", "run", options=(*STRANGER, *mount))
        assert done.returncode == 0, done.stderr
        assert "Ada" in done.stdout + done.stderr
        made = ("run", "--rm", *mount, "--entrypoint", "stat", image, "-c", "%u", "/workspace/run/run/merged/ftx.json")
        assert docker.docker(*made).stdout.strip() == "12345"


def test_the_image_is_small_and_has_no_compiler_no_installer_and_no_root(docker: Engine, image: str) -> None:
    facts = docker.inspect(image)
    assert facts["Size"] < 1.5e9
    config = facts["Config"]
    assert config["User"] not in ("", "0", "root")
    assert config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"] == ["tini", "--", "ftx"]
    assert set(config["Volumes"]) == {"/home/ftx", "/workspace"}
    tag = re.fullmatch(r"ftx:cpu-(.+)-[0-9a-f]{8}", image)
    assert tag is not None
    assert config["Labels"]["org.opencontainers.image.version"] == tag[1]
    tools = "for tool in cc gcc g++ make pip pip3; do command -v $tool; done; true"
    assert docker.docker("run", "--rm", "--entrypoint", "sh", image, "-c", tools).stdout == ""
    history = docker.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert "CERTIFICATE" not in history


def test_the_image_says_what_it_is_made_of(docker: Engine, image: str) -> None:
    said = docker.docker("run", "--rm", "--entrypoint", "cat", image, "/opt/ftx/sbom.cdx.json").stdout
    made_of = {part["name"].lower().replace("_", "-"): part["version"] for part in json.loads(said)["components"]}
    locked = {
        name.lower().replace("_", "-"): version
        for lock in ("torch-cpu", "cpu")
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / f"docker/{lock}.lock").read_text("utf-8"), re.M)
    }
    assert made_of.pop("ftx")
    assert made_of == locked


def test_exit_codes_come_through(docker: Engine, image: str, tmp_path: Path) -> None:
    assert docker.ftx(image, "train", "nosuch.yaml").returncode == 2
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{\n", "utf-8")
    bad.chmod(0o644)
    mounts = (*MODEL, "-v", f"{bad}:/bad.jsonl:ro")
    refused = docker.ftx(image, "train", "--model", "/tiny", "--data", "/bad.jsonl", "--out", "run", options=mounts)
    assert refused.returncode == 3, refused.stderr
    away = docker.ftx(image, "download", "huggingface:nobody/nothing", "--out", "model")
    assert away.returncode == 5, away.stderr


def test_docker_stop_saves_a_checkpoint_and_the_run_goes_on(docker: Engine, image: str, rows: tuple[str, str]) -> None:
    long = ("--max-steps", 100_000, "--json")
    with docker.volume() as work:
        options = (*STRANGER, *MODEL, *rows, "-v", f"{work}:/workspace")
        with docker.started(image, *training("run", *long), options=options) as container:
            docker.wait_for_line(container, '"event": "step"')
            docker.docker("stop", "-t", 120, container)
            assert docker.inspect(container)["State"]["ExitCode"] == 6
            said = docker.docker("logs", container)
            assert "Traceback" not in said.stderr
        reached = max(json.loads(line).get("step", 0) for line in said.stdout.splitlines())
        with docker.started(image, *training("run", *long, "--resume", "auto"), options=options) as container:
            docker.wait_for_line(container, f'"step": {reached + 1},')


def test_too_little_memory_is_told_by_137_and_the_engine(docker: Engine, image: str, rows: tuple[str, str]) -> None:
    options = (*MODEL, *rows, "--memory", "150m", "--memory-swap", "150m")
    with docker.started(image, *training("run", "--max-steps", 4), options=options) as container:
        assert docker.docker("wait", container).stdout.strip() == "137"
        assert docker.inspect(container)["State"]["OOMKilled"]


def test_a_full_volume_ends_in_one_sentence(docker: Engine, image: str, rows: tuple[str, str]) -> None:
    small = ("--mount", "type=tmpfs,destination=/workspace,tmpfs-size=96k,tmpfs-mode=1777")
    done = docker.ftx(image, *training("run", "--max-steps", 4), options=(*MODEL, *rows, *small))
    assert done.returncode == 10, done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


def test_a_mount_that_the_user_may_not_write_ends_in_one_sentence(
    docker: Engine, image: str, rows: tuple[str, str], tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o755)
    options = (*STRANGER, *MODEL, *rows, "-v", f"{closed}:/workspace")
    done = docker.ftx(image, *training("run", "--max-steps", 4), options=options)
    assert done.returncode == 10, done.stderr
    assert "Traceback" not in done.stderr
    assert "ermission" in done.stderr
    assert not list(closed.iterdir())


def test_a_mount_that_the_user_may_not_read_ends_in_one_sentence(
    docker: Engine, image: str, rows: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "rows" / "rows.jsonl").chmod(0o600)
    done = docker.ftx(image, *training("run", "--max-steps", 4), options=(*STRANGER, *MODEL, *rows))
    assert done.returncode in (2, 3), done.stderr
    assert "Traceback" not in done.stderr
    assert "rows.jsonl" in done.stderr


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry on a port of its own; host:port."""
    config = tmp_path / "registry.yml"
    config.write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {tmp_path / 'registry'}}}}}\n"
        "http: {addr: '127.0.0.1:0'}\n",
        "utf-8",
    )
    command = ["docker-registry", "serve", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            place = next(found[1] for line in process.stdout if (found := re.search(r"listening on ([\d.:]+)", line)))
            threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would stop it
            yield place
        finally:
            process.terminate()


def test_a_registry_gives_back_by_digest_what_was_pushed(docker: Engine, image: str, registry: str) -> None:
    there = f"{registry}/ftx:cpu"
    docker.docker("tag", image, there)
    try:
        pushed = docker.docker("push", there).stdout
        (digest,) = re.findall(r"digest: (sha256:[0-9a-f]{64})", pushed)
    finally:
        docker.docker("rmi", there)
    exact = f"{registry}/ftx@{digest}"
    docker.docker("pull", exact)
    try:
        assert docker.inspect(exact)["Id"] == docker.inspect(image)["Id"]
        assert docker.ftx(exact, "--version").returncode == 0
    finally:
        docker.docker("rmi", exact)
