"""Environments of their own: made from a lock without a network, used, out of date, broken in every named way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftx import environments
from ftx.errors import FtxError, HubError, RecipeError, StorageError, VerificationError
from ftx.plugins import PluginError, Registry, load_registry
from small_environments import OURS, Declares, declare, lock_of, write_wheel

SMALL = {"small/__init__.py": "WORD = 'small'\n", "small/__main__.py": "print('it runs')\n"}


def quiet(line: str) -> None:
    """Whoever wants no installer's lines."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> environments.Environment:
    """An environment that is declared, and made in the cache that all these tests share."""
    folder = tmp_path_factory.mktemp("small")
    environment = declare("small", lock_of(folder, write_wheel(folder, "small", SMALL)), "small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        environments.create(environment, None, quiet)
    return environment


def registry_of(*found: environments.Environment) -> Registry:
    registry = load_registry("none")
    registry.pm.register(Declares(*found), name="declares")
    return registry


def leftovers() -> list[Path]:
    root = environments.cache_root() / "environments"
    return [path for path in root.glob("*") if path.is_dir()] if root.is_dir() else []


def test_code_runs_in_it_apart_from_ours(made: environments.Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "core")
    python = environments.python_of("small", registry_of(made))
    assert Path(python).is_relative_to(environments.place_of(made))
    ran = subprocess.run([python, "-I", "-m", "small"], capture_output=True, text=True, check=True)
    assert ran.stdout == "it runs\n"
    apart = subprocess.run([python, "-I", "-c", "import ftx"], capture_output=True, text=True, check=False)
    assert "No module named 'ftx'" in apart.stderr


def test_a_relative_place_is_the_same_from_every_folder(
    made: environments.Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTX_ENVIRONMENTS", "places")
    assert environments.place_of(made).parent == tmp_path / "places"


def test_a_second_creation_keeps_what_is_there(made: environments.Environment) -> None:
    before = (environments.place_of(made) / environments.MARKER).stat().st_mtime_ns
    said: list[str] = []
    assert environments.create(made, None, said.append)["small"] == "1.0"
    assert said == []
    assert (environments.place_of(made) / environments.MARKER).stat().st_mtime_ns == before


def test_check_imports_and_prints_versions(made: environments.Environment) -> None:
    assert environments.check(made) == {"python": sys.version.split()[0], "small": "1.0"}


def test_a_changed_lock_is_out_of_date_until_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTX_CACHE", str(tmp_path / "cache"))
    lock = lock_of(tmp_path, write_wheel(tmp_path, "small", SMALL))
    environment = declare("small", lock, "small")
    registry = registry_of(environment)
    assert environments.state_of(environment) == "not made"
    with pytest.raises(FtxError, match=r"is not made yet; run: ftx env create small"):
        environments.python_of("small", registry)
    environments.create(environment, None, quiet)
    old = environments.place_of(environment)
    lock_of(tmp_path, write_wheel(tmp_path, "small", SMALL, "2.0"))
    assert environments.state_of(environment) == "out of date"
    with pytest.raises(FtxError, match=r"out of date: its lock has changed; run: ftx env create small"):
        environments.python_of("small", registry)
    with pytest.raises(FtxError, match=r"out of date"):
        environments.check(environment)
    assert environments.create(environment, None, quiet)["small"] == "2.0"
    assert not old.exists()
    assert environments.remove(environment)
    assert not environments.remove(environment)
    assert leftovers() == []


def test_an_install_that_breaks_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTX_CACHE", str(tmp_path / "cache"))
    wheel = write_wheel(tmp_path, "small", SMALL)
    wheel.write_bytes(wheel.read_bytes()[:200])
    with pytest.raises(FtxError, match=r"'small' was not made: ERROR: .*nothing of it was kept"):
        environments.create(declare("small", lock_of(tmp_path, wheel), "small"), None, quiet)
    assert leftovers() == []


def test_a_module_that_does_not_import_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTX_CACHE", str(tmp_path / "cache"))
    broken = write_wheel(tmp_path, "small", {"small/__init__.py": "import torch_of_another_world\n"})
    with pytest.raises(VerificationError, match=r"cannot import small: .*No module named 'torch_of_another_world'"):
        environments.create(declare("small", lock_of(tmp_path, broken), "small"), None, quiet)
    assert leftovers() == []


def test_offline_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens on port 9, where packets are thrown away."""
    monkeypatch.setenv("FTX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_RETRIES", "1")
    lock = tmp_path / "far.lock"
    lock.write_text("--index-url http://127.0.0.1:9/simple\nno-such-package-of-ftx==1.0\n", "utf-8")
    with pytest.raises(HubError, match=r"the package index cannot be reached"):
        environments.create(declare("far", lock, "far"), None, quiet)
    assert leftovers() == []


def test_neither_pip_nor_uv_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environments, "find_spec", lambda name: None)
    with pytest.raises(FtxError, match=r"neither pip nor uv is here to install with; run: python -m ensurepip"):
        environments.create(declare("small", lock_of(tmp_path), "small"), None, quiet)
    assert leftovers() == []


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file", "utf-8")
    monkeypatch.setenv("FTX_CACHE", str(tmp_path / "cache"))
    with pytest.raises(StorageError, match=r"name another place with FTX_CACHE"):
        environments.create(declare("small", lock_of(tmp_path), "small"), None, quiet)


@pytest.mark.system
def test_a_full_disk_is_said_and_left_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=True)
    try:
        monkeypatch.setenv("FTX_CACHE", str(disk))
        files = {**SMALL, "small/large.txt": "".join(map(str, range(200_000)))}
        lock = lock_of(tmp_path, write_wheel(tmp_path, "small", files))
        with pytest.raises(StorageError, match=r"is full; free some, or name another place with FTX_CACHE"):
            environments.create(declare("small", lock, "small"), None, quiet)
        assert leftovers() == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_python_that_does_not_fit_is_said(tmp_path: Path) -> None:
    old = declare("old", lock_of(tmp_path), "small", pythons=("3.2", "3.1"))
    with pytest.raises(FtxError, match=r"'old' needs Python 3.2 or 3.1, and none is on the PATH; install one"):
        environments.create(old, None, quiet)
    with pytest.raises(FtxError, match=rf"--python: .* is Python {OURS}; environment 'old' needs"):
        environments.create(old, Path(sys.executable), quiet)
    with pytest.raises(FtxError, match=r"--python: .*small.lock is no Python interpreter"):
        environments.create(old, old.requirements, quiet)


def test_an_interrupted_creation_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after kill -9: a folder without its marker, which the next creation replaces."""
    monkeypatch.setenv("FTX_CACHE", str(tmp_path / "cache"))
    environment = declare("small", lock_of(tmp_path, write_wheel(tmp_path, "small", SMALL)), "small")
    place = environments.place_of(environment)
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").symlink_to(os.devnull)
    assert environments.state_of(environment) == "not made"
    assert environments.create(environment, Path(sys.executable), quiet)["small"] == "1.0"


def test_names_are_known_and_not_taken_twice(made: environments.Environment) -> None:
    with pytest.raises(RecipeError, match=r"environment 'smal' is not known; did you mean 'small'"):
        environments.named("smal", registry_of(made))
    with pytest.raises(PluginError, match=r"environment 'small' is declared by two plugins"):
        environments.declared(registry_of(made, made))


def test_a_lock_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(FtxError, match=r"gone.lock cannot be read: .*; install its plugin again"):
        environments.state_of(declare("small", tmp_path / "gone.lock", "small"))


def test_the_command_lists_what_plugins_declare(ftx: Any) -> None:
    listed = {event["name"]: event for event in ftx("env", "list", "--json").events}
    assert {name: event["state"] for name, event in listed.items()} == {
        "lmdeploy": "not made",
        "openxlab": "not made",
        "xtuner": "not made",
    }
    assert listed["xtuner"]["pythons"] == ["3.10"]
    assert "lmdeploy" in ftx("env", "list").out
    checked = ftx("env", "check", "lmdeploy")
    assert (checked.code, checked.err) == (
        2,
        "ftx: environment 'lmdeploy' is not made; run: ftx env create lmdeploy\n",
    )
    assert ftx("env", "remove", "lmdeploy", "--json").events == [
        {"event": "removed", "name": "lmdeploy", "there": False}
    ]
    assert "did you mean 'lmdeploy'" in ftx("env", "create", "lmdeplo").err


def test_the_command_creates_and_checks(
    ftx: Any, made: environments.Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftx.cli.group.load_registry", lambda: registry_of(made))
    (created,) = ftx("env", "create", "small", "--json").events
    assert (created["event"], created["versions"]["small"]) == ("created", "1.0")
    checked = ftx("env", "check", "small")
    assert (checked.code, "1.0" in checked.out) == (0, True)
    assert "is sound" in checked.err


@pytest.mark.parametrize("name", ["lmdeploy", "openxlab", "xtuner"])
def test_every_lock_pins_every_package(name: str) -> None:
    environment = environments.named(name, load_registry("none"))
    lines = [line for line in environment.requirements.read_text("utf-8").splitlines() if line[0] != "#"]
    assert all("==" in line for line in lines)
    assert any(line.startswith(f"{name}==") for line in lines)
