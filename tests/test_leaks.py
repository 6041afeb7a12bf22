"""Where a token may lie while something is published, and afterwards: in the head of requests, and nowhere else."""

from __future__ import annotations

import base64
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benches import BENCHES, Bench, bench_of
from hub_servers import TOKEN
from published import adapter_copy, made_once, merged_copy  # noqa: F401 (fixtures)

FORMS = [TOKEN, base64.b64encode(f"ann:{TOKEN}".encode()).decode()]
# Beside the one that is used, tokens of other hubs: no other program is to see them.
FOREIGN = {"FTX_OTHER_TOKEN": "other-hub-token-77e1", "AWS_SECRET_ACCESS_KEY": "other-cloud-key-0c4f"}
REMOTE = ("ls-remote", "fetch", "push", "lfs")  # what git is asked of the host

HUBS = [pytest.param(hub, marks=[pytest.mark.system] if hub == "openxlab" else []) for hub in BENCHES]
WAYS = ["it arrives", "the hub repeats the token", "the connection is cut", "the token is refused"]


class Watch(threading.Thread):
    """Looks at a process and all below it until it ends: command lines, and the environments of those below."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(process.pid)
        self.lines: set[str] = set()
        self.environments: dict[str, dict[str, str]] = {}
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.03):
            for one in self._all():
                try:
                    line = " ".join(one.cmdline())
                    self.lines.add(line)
                    if one != self.process:
                        self.environments.setdefault(line, one.environ())
                except (psutil.Error, OSError):
                    continue

    def _all(self) -> list[psutil.Process]:
        try:
            return [self.process, *self.process.children(recursive=True)]
        except psutil.Error:
            return []


@pytest.fixture
def wrapped(tmp_path: Path) -> Path:
    """The real git and git-lfs behind scripts that write down what they are given: nothing is too quick to be seen.

    They are for the publishing alone: the server's own git is another machine's.
    """
    log = tmp_path / "seen-by-programs"
    programs = tmp_path / "programs"
    for folder in (log, programs):
        folder.mkdir()
    for name in ("git", "git-lfs"):
        real = shutil.which(name)
        if real is None:
            continue
        script = programs / name
        script.write_text(
            f'#!/bin/sh\n{{ printf "%s\\n" "$0 $*"; env; }} > {log}/$$-{name}\nexec {real} "$@"\n', "utf-8"
        )
        script.chmod(0o700)
    return log


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("hub", HUBS)
def test_no_token_is_left_anywhere(
    hub: str, way: str, adapter: Path, tmp_path: Path, wrapped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    home = tmp_path / "users-home"
    home.mkdir()
    for name, value in {**FOREIGN, "TMPDIR": str(temporary), "HOME": str(home)}.items():
        monkeypatch.setenv(name, value)
    with bench_of(hub, tmp_path, monkeypatch) as bench:
        _spoil(bench, way)
        told, watch = _published(bench, adapter, tmp_path / "programs")
        assert (told.returncode == 0) is (way == WAYS[0]), told.stderr
        if way == WAYS[0]:
            assert (adapter / "publish.json").is_file()
        text = (told.stdout + told.stderr).decode()
        assert not _found(text.encode()), text
        assert not [line for line in watch.lines if _found(line.encode())]
        assert not [path for path in _files(tmp_path, wrapped) if _found(path.read_bytes())]
        assert not [one for one in bench.stored if _found(one)]
        assert not [line for line in bench.server.asked if _found(line.encode())]
        _only_where_needed(watch, wrapped)


def _spoil(bench: Bench, way: str) -> None:
    if way == "the hub repeats the token":
        bench.fail("commit", 422, says=f"denied to {TOKEN} of ann")
    elif way == "the connection is cut":
        bench.fail("commit", 0)
    elif way == "the token is refused":
        bench.fail("commit", 401)


def _published(bench: Bench, folder: Path, programs: Path) -> tuple[subprocess.CompletedProcess[bytes], Watch]:
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    about = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PATH": path}
    process = subprocess.Popen(
        [sys.executable, "-m", "ftx", *bench.words(folder)], env=about, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    watch = Watch(process)
    watch.start()
    out, err = process.communicate(timeout=120)
    watch.ended.set()
    watch.join(10)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err), watch


def _found(content: bytes) -> bool:
    return any(form.encode() in content for form in FORMS)


def _files(*places: Path) -> Iterator[Path]:
    """All ordinary files below, but what our own watching wrote down and pytest's own."""
    for path in places[0].rglob("*"):
        if not path.is_relative_to(places[1]) and not path.is_symlink() and stat.S_ISREG(path.stat().st_mode):
            yield path


def _only_where_needed(watch: Watch, log: Path) -> None:
    """The token is in the environment of programs that speak to the host alone; others' tokens are in none."""
    for path in log.iterdir():
        line, _, environment = path.read_text("utf-8", "replace").partition("\n")
        assert not _found(line.encode())
        assert not [value for value in FOREIGN.values() if value in environment], line
        words = line.split()
        speaks = "git-lfs" in words[0] or any(word in REMOTE for word in words) or "credential" in line
        assert speaks or "remote-http" in line or not _found(environment.encode()), line
    for line, environment in watch.environments.items():
        # A child that has not become another program yet; what Python itself asks for the name of the system.
        if "-m ftx" in line or line == "uname -p":
            continue
        assert not [name for name in FOREIGN if name in environment], line
