"""Publishing by the hubs' own clients, unmodified, to servers on this machine that follow the recorded protocol."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import short_pauses
from ftx.artifact import Artifact
from hub_publishing import Fault, HuggingFaceWriter, ModelScopeWriter, Publishing, gradio_app, xet_files
from hub_servers import TOKEN
from published import BASE, adapter_copy, made_once, merged_copy  # noqa: F401 (fixtures)

REPO = "ann/cats"


@dataclass
class Place:
    """A hub: its server, the publisher's name, its branch and the variable of its token."""

    server: Publishing
    publisher: str
    branch: str
    token: str

    def words(self, folder: Path, *more: str) -> list[str]:
        return ["publish", self.publisher, str(folder), "--repo", REPO, "--base", BASE, "--yes", "--json", *more]

    def files(self, repo: str = REPO) -> dict[str, bytes]:
        return self.server.current(repo, self.branch)


@pytest.fixture(params=["huggingface", "modelscope"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = {"huggingface": _huggingface, "modelscope": _modelscope}[str(request.param)](tmp_path, monkeypatch)
    monkeypatch.setenv(made.token, TOKEN)
    yield made
    made.server.stop()


def _huggingface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    from huggingface_hub import constants

    # These are read from the environment when the client is imported, which other tests have done offline.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    short_pauses(monkeypatch)
    server = Publishing(HuggingFaceWriter)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return Place(server, "huggingface", "main", "HF_TOKEN")


def _modelscope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    pytest.importorskip("modelscope_hub")
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "elsewhere"))
    short_pauses(monkeypatch)
    server = Publishing(ModelScopeWriter)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
    return Place(server, "modelscope", "master", "MODELSCOPE_API_TOKEN")


def test_it_is_made_private_and_arrives(ftx: Any, place: Place, merged: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in merged.iterdir())
    result = ftx(*place.words(merged))
    assert result.code == 0, result.err
    assert REPO in place.server.private
    (entry,) = json.loads((merged / "publish.json").read_text("utf-8"))["published"]
    assert entry["public"] is False and entry["revision"] == place.server.head(REPO, place.branch)
    remote = place.files()
    assert set(remote) == {*entry["files"], ".gitattributes"}
    assert sorted(path.name for path in merged.iterdir()) == sorted([*before, "publish.json"])
    clone = tmp_path / "clone"
    clone.mkdir()
    for name, content in remote.items():
        (clone / name).write_bytes(content)
    assert Artifact.open(clone).kind == "merged"
    assert not [name for name, content in remote.items() if str(tmp_path.parent).encode() in content]


def test_the_card_is_as_the_hub_wants_it(ftx: Any, place: Place, adapter: Path) -> None:
    assert ftx(*place.words(adapter)).code == 0
    head = yaml.safe_load(place.files()["README.md"].decode().split("---")[1])
    assert (head["base_model"], head["base_model_relation"], head["library_name"]) == (BASE, "adapter", "peft")
    if place.publisher == "huggingface":
        assert (head["license"], head["pipeline_tag"]) == ("apache-2.0", "text-generation")
    else:
        assert (head["license"], head["tasks"]) == ("Apache License 2.0", ["text-generation"])


def test_a_second_time_sends_nothing(ftx: Any, place: Place, merged: Path) -> None:
    assert ftx(*place.words(merged)).code == 0
    place.server.asked.clear()
    result = ftx(*place.words(merged))
    assert (result.code, result.events[-1]["sent_files"]) == (0, 0)
    assert not [line for line in place.server.asked if line.startswith(("POST", "PUT"))]


def test_people_are_told_in_words(ftx: Any, place: Place, adapter: Path) -> None:
    result = ftx(*[word for word in place.words(adapter) if word != "--json"])
    assert result.code == 0, result.err
    assert "adapter_model.safetensors" in result.out and "there already" not in result.out
    assert (
        f"{place.server.url}/" in result.err
        and ", not made public; " in " ".join(result.err.split())
        and "licence apache-2.0" in result.err
    )


def test_public_is_a_second_step(ftx: Any, place: Place, adapter: Path) -> None:
    result = ftx(*place.words(adapter, "--public"))
    assert result.code == 0, result.err
    last = result.events[-1]
    if place.publisher == "huggingface":
        assert REPO not in place.server.private and last["by_hand"] == [] and last["public"]
        assert place.server.asked[-1].endswith("/settings"), "it was listed and compared before"
    else:
        assert REPO in place.server.private and "public (公开)" in last["by_hand"][0] and not last["public"]


def test_what_is_public_already_is_not_filled_unasked(ftx: Any, place: Place, adapter: Path) -> None:
    place.server.add(REPO, {".gitattributes": b"x"}, place.branch)
    result = ftx(*place.words(adapter))
    assert (result.code, "add --public if that is meant" in result.err) == (2, True), result.err
    assert set(place.files()) == {".gitattributes"}
    assert ftx(*place.words(adapter, "--public")).code == 0


def test_a_foreign_repository(ftx: Any, place: Place, adapter: Path) -> None:
    place.server.add(REPO, {"theirs.txt": b"x", ".gitattributes": b"x"}, place.branch)
    place.server.private.add(REPO)
    result = ftx(*place.words(adapter))
    assert (result.code, "theirs.txt is not from this artefact" in result.err) == (2, True), result.err
    assert ftx(*place.words(adapter, "--replace")).code == 0
    assert "theirs.txt" not in place.files()


def test_someone_elses_name(ftx: Any, place: Place, adapter: Path) -> None:
    result = ftx(*place.words(adapter, "--repo", "eve/cats"))
    assert (result.code, "may not write to eve/cats" in result.err) == (5, True), result.err


@pytest.mark.parametrize("place", ["huggingface"], indirect=True)
def test_a_repository_that_was_renamed(ftx: Any, place: Place, adapter: Path) -> None:
    place.server.add("ann/dogs", {".gitattributes": b"x"}, place.branch)
    place.server.renamed[REPO] = "ann/dogs"
    result = ftx(*place.words(adapter))
    assert (result.code, "ann/cats on Hugging Face was renamed to ann/dogs" in result.err) == (5, True), result.err
    assert set(place.files("ann/dogs")) == {".gitattributes"}


def refused(ftx: Any, place: Place, folder: Path) -> str:
    """The one sentence of exit code 5; no receipt, no token told, nothing of the model on the hub."""
    result = ftx(*place.words(folder))
    assert result.code == 5, result.err
    assert result.err.count("\n") == 1 and TOKEN not in result.err + result.out, result.err
    assert not (folder / "publish.json").exists()
    assert "ftx.json" not in (place.files() if REPO in place.server.refs else {})
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
    return str(result.err)


def test_tokens_that_do_not_do(ftx: Any, place: Place, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(place.token, TOKEN + "x")
    sentence = refused(ftx, place, adapter)
    assert "does not know this token" in sentence and place.token in sentence
    monkeypatch.delenv(place.token)
    assert f"set {place.token}" in refused(ftx, place, adapter)
    monkeypatch.setenv(place.token, TOKEN)
    place.server.writes = False
    assert "may not write" in refused(ftx, place, adapter)
    place.server.writes = True
    assert ftx(*place.words(adapter)).code == 0


FAULTS = {
    "huggingface": [
        ("GET", "/api/models/", 500),
        ("POST", "/api/repos/create", 402),
        ("POST", "/api/repos/create", 503),
        ("POST", "/validate-yaml", 400),
        ("POST", "/preupload/", 403),
        ("POST", "/objects/batch", 500),
        ("PUT", "/_upload/", 0),
        ("PUT", "/_upload/", 403),
        ("POST", "/commit/", 412),
        ("POST", "/commit/", 413),
        ("POST", "/commit/", 422),
        ("POST", "/commit/", 429),
        ("POST", "/commit/", 0),
    ],
    "modelscope": [
        ("GET", "/api/v1/models/", 500),
        ("POST", "/api/v1/models$", 403),
        ("POST", "/api/v1/models$", 503),
        ("POST", "/objects/batch", 500),
        ("PUT", "/_blob/", 0),
        ("PUT", "/_blob/", 413),
        ("POST", "/commit/", 409),
        ("POST", "/commit/", 422),
        ("POST", "/commit/", 429),
        ("POST", "/commit/", 0),
    ],
}


def test_a_hub_that_fails_at_each_call_and_then_does_not(ftx: Any, place: Place, adapter: Path) -> None:
    for number, (method, path, status) in enumerate(FAULTS[place.publisher]):
        place.server.faults = [Fault(method, path, status, 99)]
        sentence = refused(ftx, place, adapter)
        assert sentence.startswith("ftx: "), (number, sentence)
    place.server.faults = []
    result = ftx(*place.words(adapter))
    assert result.code == 0, result.err


def test_a_hub_without_room(ftx: Any, place: Place, adapter: Path) -> None:
    place.server.quota = 10
    assert "quota" in refused(ftx, place, adapter)


def test_no_network(ftx: Any, place: Place, adapter: Path) -> None:
    place.server.stop()
    result = ftx(*place.words(adapter))
    assert (result.code, "cannot be reached" in result.err) == (5, True), result.err


def test_what_was_sent_is_not_sent_again(ftx: Any, place: Place, merged: Path) -> None:
    place.server.faults = [Fault("POST", "/commit/", 422, 99)]
    refused(ftx, place, merged)
    place.server.faults = []
    place.server.asked.clear()
    assert ftx(*place.words(merged)).code == 0
    assert not [line for line in place.server.asked if line.startswith("PUT")]


@pytest.mark.parametrize("place", ["huggingface"], indirect=True)
def test_a_commit_in_between(ftx: Any, place: Place, adapter: Path) -> None:
    other = {".gitattributes": b"x", "other.txt": b"x"}
    place.server.add(REPO, {".gitattributes": b"x"}, place.branch)
    place.server.private.add(REPO)
    place.server.between = lambda: place.server.add(REPO, other, place.branch)
    assert "someone else changed" in refused(ftx, place, adapter)
    assert place.files() == other


def test_a_hub_that_keeps_something_else_than_it_was_sent(ftx: Any, place: Place, adapter: Path) -> None:
    add = place.server.add

    def spoilt(repo: str, files: dict[str, bytes], branch: str) -> str:
        return add(repo, {n: b"spoilt" if n == "verify.json" else b for n, b in files.items()}, branch)

    place.server.add = spoilt  # type: ignore[method-assign]
    result = ftx(*place.words(adapter))
    assert (result.code, "verify.json is missing, changed or not ours" in result.err) == (5, True), result.err
    assert not (adapter / "publish.json").exists()


def test_the_token_is_in_the_head_of_requests_alone(
    ftx: Any, place: Place, merged: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    result = ftx(*place.words(merged))
    assert result.code == 0
    assert TOKEN not in result.out + result.err + caplog.text
    assert not [line for line in place.server.asked if TOKEN in line]
    assert not [body for body in place.server.bodies if TOKEN.encode() in body]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return gradio_app(tmp_path / "app")


@pytest.mark.parametrize("place", ["huggingface"], indirect=True)
class TestSpaces:
    def test_an_app_with_its_model(self, ftx: Any, place: Place, app: Path, merged: Path) -> None:
        shutil.copytree(merged, app / "model")
        (app / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n", "utf-8")
        (app / "documents").mkdir()
        (app / "documents" / "a.txt").write_text("The home of root is /root, that of ann /home/ann.\n", "utf-8")
        result = ftx(*place.words(app))
        assert result.code == 0, result.err
        assert place.files()["model/model.safetensors"] == (merged / "model.safetensors").read_bytes()
        (app / "model" / "notes.py").write_text("x = 1\n", "utf-8")
        assert "model/notes.py is not among the files that may leave with an app" in ftx(*place.words(app)).err

    def test_an_app_becomes_a_private_space_and_runs(self, ftx: Any, place: Place, app: Path) -> None:
        result = ftx(*place.words(app, "--set", "hardware=t4-small"))
        assert result.code == 0, result.err
        asked = place.server.spaces[REPO]
        assert (asked["sdk"], asked["hardware"]) == ("gradio", "t4-small") and REPO in place.server.private
        assert set(place.files()) == {"app.py", "requirements.txt", "README.md", ".gitattributes"}
        (entry,) = json.loads((app / "publish.json").read_text("utf-8"))["published"]
        assert entry["address"].endswith(f"/spaces/{REPO}")
        assert ftx(*place.words(app)).events[-1]["sent_files"] == 0

    def test_one_that_does_not_run_shows_its_log(self, ftx: Any, place: Place, app: Path) -> None:
        place.server.stages = ["BUILDING", "RUNTIME_ERROR"]
        result = ftx(*place.words(app))
        assert (result.code, "(RUNTIME_ERROR): ModuleNotFoundError: gradoi" in result.err) == (5, True), result.err

    def test_one_that_takes_too_long(self, ftx: Any, place: Place, app: Path) -> None:
        place.server.stages = ["APP_STARTING"]
        result = ftx(*place.words(app, "--set", "wait=1"))
        assert (result.code, "does not run after 1 s" in result.err) == (5, True), result.err
        assert ftx(*place.words(app, "--set", "wait=-1")).code == 2

    def test_one_for_another_place(self, ftx: Any, place: Place, app: Path) -> None:
        (app / "README.md").write_text("# Cats\n", "utf-8")
        result = ftx(*place.words(app))
        assert (result.code, "names no sdk (gradio, docker, static)" in result.err) == (2, True), result.err

    def test_a_plan_that_must_be_paid(self, ftx: Any, place: Place, app: Path) -> None:
        place.server.faults = [Fault("POST", "/api/repos/create", 402)]
        result = ftx(*place.words(app))
        assert (result.code, "wants a paid plan" in result.err) == (5, True), result.err


@pytest.mark.parametrize(
    ("held", "stage"),
    [("held_before", "PUT "), ("held_before", "POST .*/commit/"), ("held_after", "POST .*/commit/")],
)
def test_killed_at_a_stage_and_run_again(ftx: Any, place: Place, adapter: Path, held: str, stage: str) -> None:
    setattr(place.server, held, stage)
    about = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    process = subprocess.Popen([sys.executable, "-m", "ftx", *place.words(adapter)], env=about, stdout=subprocess.PIPE)
    assert place.server.reached.wait(60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    setattr(place.server, held, None)
    place.server.go.set()
    assert not (adapter / "publish.json").exists()
    place.server.asked.clear()
    result = ftx(*place.words(adapter))
    assert result.code == 0, result.err
    assert set(place.files()) == {file["path"] for file in result.events[0]["files"]} | {".gitattributes"}
    if held == "held_after":
        assert result.events[-1]["sent_files"] == 0, "it had arrived"
    assert [path.name for path in adapter.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("place", ["huggingface"], indirect=True)
def test_large_files_go_by_xet(
    ftx: Any, place: Place, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    place.server.xet = tmp_path / "cas"
    place.server.xet.mkdir()
    result = ftx(*place.words(merged))
    assert result.code == 0, result.err
    (entry,) = json.loads((merged / "publish.json").read_text("utf-8"))["published"]
    assert entry["files"]["model.safetensors"]["sha256"] in xet_files(place.server.xet)
    assert place.server.blobs == {}
    out = tmp_path / "back"
    result = ftx("download", f"huggingface:{REPO}", "--out", out)
    assert result.code == 0, result.err
    assert (out / "model.safetensors").read_bytes() == (merged / "model.safetensors").read_bytes()
    assert [line for line in place.server.asked if "xet-read-token" in line]
