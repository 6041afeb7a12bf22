"""The quickstart's adapter, merged model and app on each hub: dry run, push, receipt, one after the other."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import short_pauses, write_rows
from hub_publishing import HuggingFaceWriter, Publishing
from hub_servers import TOKEN
from lfs_server import LfsHost
from test_publish_apps import BASE
from test_publish_studios import Hub as ModelScopeHub

pytestmark = pytest.mark.system  # needs git-lfs, and trains
BASE_NAME = "ann/tiny-base"
COMMIT = 40  # hexadecimal digits


def run(*words: object) -> None:
    """A command of ftx in this process, which must succeed."""
    from ftx.cli import run as command

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = command([str(word) for word in words])
    assert code == 0, said.getvalue()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run/adapter, run/merged, and native: the merged model as transformers reads it; all verified."""
    folder = tmp_path_factory.mktemp("quickstart")
    rows = write_rows(folder / "rows.jsonl", 8)
    run("train", "--model", BASE, "--data", rows, "--max-steps", 2, "--out", folder / "run")
    run("merge", folder / "run")
    run("export", folder / "run", "--layout", "transformers", "--out", folder / "native")
    run("verify", folder / "run", folder / "native")
    return folder


@dataclass
class Place:
    """A hub: what its commands take, and what a repository there holds."""

    name: str
    words: tuple[str, ...]
    files: Callable[[str, str], dict[str, bytes]]  # of a repository, "model" or "app"
    new: Callable[[str], object]  # makes the repository, where that is done by hand
    stop: Callable[[], None]


def _huggingface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    from huggingface_hub import constants

    for name, value in {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    short_pauses(monkeypatch)
    hub = Publishing(HuggingFaceWriter)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return Place("huggingface", (), lambda repo, kind: hub.current(repo, "main"), lambda repo: None, hub.stop)


def _modelscope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    pytest.importorskip("modelscope_hub")
    hub = ModelScopeHub(tmp_path / "host")
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", TOKEN)
    monkeypatch.setattr("ftx_modelscope.studio.POLL", 0.0)

    def files(repo: str, kind: str) -> dict[str, bytes]:
        return hub.git.contents(f"studios/{repo}") if kind == "app" else hub.current(repo, "master")

    def stop() -> None:
        hub.git.stop()
        hub.stop()

    return Place("modelscope", ("--set", f"git={hub.git.url}"), files, lambda repo: None, stop)


def _openxlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    host = LfsHost(tmp_path / "host")
    host.users["ann"] = (TOKEN, True)
    monkeypatch.setenv("OPENXLAB_GIT", host.url)
    for place in ("OPENXLAB", "GITHUB"):
        monkeypatch.setenv(f"{place}_USER", "ann")
        monkeypatch.setenv(f"{place}_TOKEN", TOKEN)
    words = ("--set", f"host={host.url}")
    return Place("openxlab", words, lambda repo, kind: host.contents(repo), host.new, host.stop)


@pytest.fixture(params=["huggingface", "modelscope", "openxlab"])
def hub(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Ann")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "ann@example.org")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    make = {"huggingface": _huggingface, "modelscope": _modelscope, "openxlab": _openxlab}[str(request.param)]
    place = make(tmp_path, monkeypatch)
    yield place
    place.stop()


def app_of(model: Path, hub: Place, revision: str, out: Path) -> None:
    """An app that fetches the model, ann/cats, from the hub."""
    pulled = {"model_hub": hub.name, "model_repo": "ann/cats", "model_revision": revision, "title": "Cats"}
    settings = [word for name, value in pulled.items() for word in ("--set", f"{name}='{value}'")]
    run("app", "new", "gradio_chat", "--model", model, "--target", hub.name, "--out", out, *settings)


def test_adapter_model_and_app(ftx: Any, hub: Place, results: Path, tmp_path: Path) -> None:
    def published(folder: Path, repo: str, kind: str, *more: str) -> dict[str, Any]:
        hub.new(repo)
        words = ("publish", hub.name, folder, "--repo", repo, *hub.words, *more, "--json")
        dry = ftx(*words, "--dry-run")
        assert (dry.code, [one["event"] for one in dry.events]) == (0, ["publish_plan"]), dry.err
        result = ftx(*words, "--yes")
        assert result.code == 0, result.err
        (entry,) = json.loads((folder / "publish.json").read_text("utf-8"))["published"]
        sent = {one["path"]: one for one in dry.events[0]["files"]}
        there = {name: body for name, body in hub.files(repo, kind).items() if name != ".gitattributes"}
        assert set(there) == set(entry["files"]) == set(sent)
        assert {name: len(body) for name, body in there.items()} == {name: one["size"] for name, one in sent.items()}
        assert entry["public"] is False
        return dict(result.events[-1])

    adapter = Path(shutil.copytree(results / "run" / "adapter", tmp_path / "run" / "adapter"))
    native = Path(shutil.copytree(results / "native", tmp_path / "native"))
    given = ("--repo", "ann/cats-lora", "--base", BASE_NAME, "--variable", "A=b", "--yes")
    refused = ftx("publish", hub.name, adapter, *hub.words, *given)
    assert (refused.code, "--variable is for apps" in refused.err) == (2, True), refused.err
    published(adapter, "ann/cats-lora", "model", "--base", BASE_NAME)
    model = published(native, "ann/cats", "model", "--base", BASE_NAME)
    weights = (native / "model.safetensors").read_bytes()
    assert hub.files("ann/cats", "model")["model.safetensors"] == weights
    assert len(model["revision"]) == COMMIT
    app_of(native, hub, model["revision"], tmp_path / "app")
    path = tmp_path / "app" / "settings.json"
    kept_settings = path.read_text("utf-8")
    for text, words in (("ann/cats", "ann/none"), (model["revision"], "0" * COMMIT)):
        path.write_text(kept_settings.replace(f'"{text}"', f'"{words}"'), "utf-8")
        early = ftx("publish", hub.name, tmp_path / "app", "--repo", "ann/cats-app", *hub.words, "--yes")
        assert (early.code, words[:9] in early.err) == (5, True), early.err
    path.write_text(kept_settings, "utf-8")
    published(tmp_path / "app", "ann/cats-app", "app")
    kept = json.loads(hub.files("ann/cats-app", "app")["settings.json"])
    assert (kept["model_repo"], kept["model_revision"]) == ("ann/cats", model["revision"])
    assert "model/model.safetensors" not in hub.files("ann/cats-app", "app")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("hub", ["huggingface"], indirect=True)
def test_an_app_as_it_lies_on_the_hub_answers(
    ftx: Any, hub: Place, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched anew and installed from its own requirements, it fetches the model and says what ftx says."""
    native = Path(shutil.copytree(results / "native", tmp_path / "native"))
    sent = ftx("publish", hub.name, native, "--repo", "ann/cats", "--base", BASE_NAME, "--yes", "--json")
    assert sent.code == 0, sent.err
    app_of(native, hub, sent.events[-1]["revision"], tmp_path / "app")
    assert ftx("publish", hub.name, tmp_path / "app", "--repo", "ann/cats-app", "--yes").code == 0
    fresh = tmp_path / "fresh"
    for name, body in hub.files("ann/cats-app", "app").items():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).write_bytes(body)
    shutil.rmtree(native)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FTX_ENVIRONMENTS", str(tmp_path / "environments"))  # 5 GB, which go with the test
    result = ftx("app", "check", fresh, "--json")
    assert result.code == 0, result.err
    assert result.events and not any(event["problem"] for event in result.events)
