"""OpenXLab: models with their metafile, apps with the steps that its page wants; git-lfs to a host on loopback."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftx.artifact import Artifact
from hub_publishing import proven
from hub_servers import git
from lfs_server import LfsHost
from published import BASE, adapter_copy, made_once, merged_copy  # noqa: F401 (fixtures)
from test_publish_apps import made

pytestmark = pytest.mark.system  # needs git-lfs
TOKEN = "glpat-5d0a91cc77e3"
MODEL, APP = "ann/cats", "ann/cats-app"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LfsHost]:
    """OpenXLab's git host and GitHub in one."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for place in ("OPENXLAB", "GITHUB"):
        monkeypatch.setenv(f"{place}_USER", "ann")
        monkeypatch.setenv(f"{place}_TOKEN", TOKEN)
    server = LfsHost(tmp_path / "host")
    server.users["ann"] = (TOKEN, True)
    for repo in (MODEL, APP):
        server.new(repo)
    yield server
    server.stop()


def published(ftx: Any, host: LfsHost, folder: Path, repo: str, *more: str) -> dict[str, Any]:
    """Dry run, then push; the last event. The receipt holds what was planned."""
    words = ["publish", "openxlab", folder, "--repo", repo, "--set", f"host={host.url}", "--yes", "--json", *more]
    dry = ftx(*words, "--dry-run")
    assert dry.code == 0, dry.err
    result = ftx(*words)
    assert result.code == 0, result.err
    (entry,) = json.loads((folder / "publish.json").read_text("utf-8"))["published"]
    assert set(entry["files"]) == {one["path"] for one in dry.events[0]["files"]}
    assert set(host.contents(repo)) == {*entry["files"], ".gitattributes"}
    last: dict[str, Any] = result.events[-1]
    return last


def test_model_first_then_the_app_that_fetches_it(
    ftx: Any, host: LfsHost, adapter: Path, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter, the merged model, and the app that pulls it by its commit."""
    host.new("ann/cats-lora")
    published(ftx, host, adapter, "ann/cats-lora", "--base", BASE)
    model = published(ftx, host, merged, MODEL, "--base", BASE)
    metafile = yaml.safe_load(host.contents(MODEL)["metafile.yml"])
    assert metafile["Collections"][0]["Code"]["URL"] == f"{host.url}/{MODEL}.git"
    pulled = {"model_hub": "openxlab", "model_repo": MODEL, "model_revision": model["revision"]}
    app = made(tmp_path, "openxlab", **pulled)
    assert not (app / "model").exists()
    monkeypatch.setenv("OPENXLAB_GIT", host.url)
    last = published(ftx, host, app, APP)
    steps = last["by_hand"]
    assert [step.split(".")[0] for step in steps] == [str(number) for number in range(1, len(steps) + 1)]
    for words in ("Cats", "repository ann/cats-app", "app.py", "OPENXLAB_TOKEN, a git access token", "as the plan of"):
        assert any(words in step for step in steps), words
    settings = json.loads(host.contents(APP)["settings.json"])
    assert (settings["port"], settings["model_revision"]) == (7860, model["revision"])
    requirements = host.contents(APP)["requirements.txt"].decode()
    assert "gradio==4.44.1" in requirements and "transformers==4.57.6" in requirements
    # What the app does there: its own code fetches what was published, whole.
    monkeypatch.syspath_prepend(str(app))
    for name in ("fetch", "settings", "refused"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    fetch = importlib.import_module("fetch")
    found = fetch.fetched(MODEL, model["revision"])
    assert (found / "model.safetensors").read_bytes() == (merged / "model.safetensors").read_bytes()
    assert Artifact.open(found).kind == "merged"
    assert not [path for path in app.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    monkeypatch.setenv("OPENXLAB_TOKEN", "another")
    with pytest.raises(importlib.import_module("refused").CannotStart, match="set OPENXLAB_USER and OPENXLAB_TOKEN"):
        fetch.fetched(MODEL, "0" * 40)
    for name in ("fetch", "settings", "refused"):
        sys.modules.pop(name, None)


def test_an_app_without_a_repository_tells_how_to_make_one(ftx: Any, host: LfsHost, tmp_path: Path) -> None:
    app = made(tmp_path, "openxlab")
    shutil.rmtree(app / "model")
    words = ("publish", "openxlab", app, "--set", f"host={host.url}", "--yes", "--json", "--repo", "ann/none")
    result = ftx(*words)
    assert result.code == 5
    for step in ("Name: none. Visibility: private", "set GITHUB_TOKEN to it", "3. Run the same ftx publish again"):
        assert step.lower() in result.err.lower(), result.err
    assert not (app / "publish.json").exists()


def test_apps_that_its_image_cannot_run(ftx: Any, host: LfsHost, tmp_path: Path) -> None:
    app = proven(made(tmp_path, "huggingface", port=8000))
    result = ftx("publish", "openxlab", app, "--repo", APP, "--set", f"host={host.url}", "--yes")
    assert result.code == 2
    for words in ("made for huggingface", "on port 8000", "gradio 6.31.0 does not install", "transformers 5.23.0 does"):
        assert words in result.err, result.err
    assert len(result.err.splitlines()) == 4
    assert "app.py" not in git(host.root / f"{APP}.git", "for-each-ref")


def test_settings_of_an_app_that_are_broken(ftx: Any, host: LfsHost, tmp_path: Path) -> None:
    app = proven(made(tmp_path, "openxlab"))
    words = ("publish", "openxlab", app, "--repo", APP, "--set", f"host={host.url}", "--yes")
    (app / "requirements.txt").write_text("gradio==5rc1\n", "utf-8")
    result = ftx(*words)
    assert (result.code, "gradio 5rc1 does not install" in result.err) == (2, True), result.err
    for name in ("settings.json", "app.json"):
        (app / name).write_text("{", "utf-8")
        result = ftx(*words)
        assert (result.code, name in result.err, result.err.count("\n")) == (2, True, 1), result.err


def test_secrets_of_an_app_are_typed_on_its_page(ftx: Any, host: LfsHost, tmp_path: Path) -> None:
    app = made(tmp_path, "openxlab")
    words = ("publish", "openxlab", app, "--repo", APP, "--set", f"host={host.url}", "--yes", "--variable", "A=b")
    result = ftx(*words)
    assert (result.code, "type it on the web page" in " ".join(result.err.split())) == (2, True), result.err
