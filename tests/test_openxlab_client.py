"""OpenXLab's real client, asked by ftx, in a network of its own where its addresses lead to a server of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftx import environments
from ftx.errors import HubError
from ftx.in_environment import answered
from ftx.plugins import load_registry
from openxlab_server import NAMES, SK
from published import BASE, made_once, verified  # noqa: F401 (a fixture)

TESTS = Path(__file__).parent
NEVER = ("/version", "/bury/", "/track/")  # the updater's question, and what is told of users
# Before the network is cut off from ours, the names are given a meaning in it.
INSIDE = """
ip link set lo up
mount --bind "$1/hosts" /etc/hosts
exec "$2" "$3/openxlab_flow.py" "$1" "$4" "$5"
"""
PIP = '#!/bin/sh\necho "$@" >> "{log}"\n'


def certificate(folder: Path) -> None:
    """ca.pem, and server.pem with server.key for OpenXLab's names."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ftx test")
    openssl(*new, "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem")
    openssl(*new, "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in NAMES), "utf-8")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "server.csr", *signed, "-out", "server.pem")


@pytest.fixture(scope="module")
def steps(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every step of openxlab_flow gave."""
    work = tmp_path_factory.mktemp("openxlab")
    certificate(work)
    (work / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *NAMES)), "utf-8")
    (work / "bin").mkdir()
    (work / "bin" / "pip").write_text(PIP.format(log=work / "pip.log"), "utf-8")
    (work / "bin" / "pip").chmod(0o755)
    cache = Path(os.environ.get("FTX_TEST_ENVIRONMENTS", work / "environments"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTX_CACHE", str(cache))
        environments.create(environments.named("openxlab", load_registry("none")), None, lambda line: None)
    own = {
        "FTX_CACHE": str(cache),
        "FTX_PLUGINS": "none",
        "HOME": str(work / "home"),
        "PATH": f"{work / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)]),
        "REQUESTS_CA_BUNDLE": str(work / "ca.pem"),
        "NO_PROXY": "*",
    }
    given = [str(work), sys.executable, str(TESTS), str(made / "run" / "merged"), BASE]
    command = ["unshare", "--net", "--mount", "sh", "-ec", INSIDE, "flow", *given]
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.system
class TestTheRealClient:
    def test_it_makes_a_private_repository_that_git_then_fills(self, steps: dict[str, Any]) -> None:
        there = steps["there"]
        assert there["code"] == 0, there["err"]
        assert (steps["made"]["publicStatus"], steps["made"]["models"][0]["weightName"]) == (0, "model.safetensors")
        assert "model.safetensors" in steps["files"] and "metafile.yml" in steps["files"]

    def test_what_fails_is_told_as_failed(self, steps: dict[str, Any]) -> None:
        for name, words in (
            ("wrong keys", "signature mismatch"),
            ("forgotten", "repository not found"),
            ("not on git", "has no ann/cats"),
            ("taken", "repository already exists"),
        ):
            assert (steps[name]["code"], words in steps[name]["err"]) == (5, True), (name, steps[name]["err"])
            assert len(steps[name]["err"].splitlines()) == 1

    def test_a_data_set_arrives_as_it_is_listed(self, steps: dict[str, Any]) -> None:
        rows, commit = steps["fetched"]["out"].split()
        assert (steps["fetched"]["code"], rows, len(commit)) == (0, "200", 40), steps["fetched"]["err"]

    def test_one_that_does_not_is_refused(self, steps: dict[str, Any]) -> None:
        for name, words in (
            ("spoilt", "5 train/a.jsonl of ann/sums did not arrive as OpenXLab lists it"),
            ("wrong keys of data", "5 openxlab: access key does not exist"),
            ("out", "3 ann/up@"),
            ("gone", "5 openxlab:"),
        ):
            assert (steps[name]["code"], words in steps[name]["err"]) == (1, True), (name, steps[name]["err"])

    def test_nothing_is_updated_and_nothing_told(self, steps: dict[str, Any]) -> None:
        """The same client left to itself does both, so that it would be seen."""
        stock = steps.pop("stock")
        pip = steps.pop("pip")
        assert [path for path in stock["asked"] if path.endswith("/version")]
        assert [path for path in stock["asked"] if "/track/" in path]
        assert pip == ["install --upgrade openxlab --index-url https://pypi.org/simple"], "the stock client's alone"
        asked = [path for step in steps.values() if isinstance(step, dict) for path in step.get("asked", ())]
        assert asked
        assert not [path for path in asked if any(sign in path for sign in NEVER)]

    def test_keys_are_nowhere(self, steps: dict[str, Any]) -> None:
        for name, step in steps.items():
            if name not in ("made", "files", "pip"):
                assert SK not in step["out"] + step["err"], name


def test_an_environment_that_is_not_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(environments.NoEnvironment, match="run: ftx env create openxlab"):
        answered("openxlab", {"do": "list", "repo": "ann/sums"}, {}, load_registry("none"))


def test_a_program_that_gives_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last words are told, without the secrets it was handed."""
    program = tmp_path / "program.py"
    program.write_text("import os, sys; sys.exit('no room for ' + os.environ['KEY'] + os.environ['PATH'][:0])", "utf-8")
    about = environments.Environment("small", ("3.11",), program, "small", (), program=program)
    monkeypatch.setattr("ftx.in_environment.named", lambda name, registry: about)
    monkeypatch.setattr("ftx.in_environment.python_of", lambda name, registry: Path(sys.executable))
    with pytest.raises(HubError, match=r"small: its client gave no answer: no room for \*\*\*$"):
        answered("small", {}, {"KEY": "s3cret-key"}, load_registry("none"))
