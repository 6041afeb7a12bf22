"""Studios and models of ModelScope whose files go by git: the real client, the real git-lfs, servers on loopback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub_publishing import ModelScopeWriter, Publishing, proven
from hub_servers import TOKEN, git
from lfs_server import LfsHost
from published import BASE, adapter_copy, made_once, merged_copy  # noqa: F401 (fixtures)
from test_publish_apps import SECRET, made

pytestmark = pytest.mark.system  # needs git-lfs
REPO = "ann/cats"
IMAGES = ("ubuntu22.04-py310-torch2.9.1-a", "ubuntu22.04-py311-torch2.3.1-b", "ubuntu22.04-py311-torch2.9.1-a")


class Hub(Publishing):
    """ModelScope, and beside it the git host of its repositories."""

    def __init__(self, root: Path) -> None:
        super().__init__(ModelScopeWriter)
        self.git = LfsHost(root)
        self.git.users["oauth2"] = (TOKEN, True)
        self.offered["sdk-versions"] = [{"version": one} for one in ("4.44.1", "6.2.0", "6.10.0")]
        self.offered["base-images"] = [{"name": one} for one in IMAGES]
        self.stages = ["Stopped"]
        self.made = self.new

    def new(self, repo: str) -> None:
        for place in (f"studios/{repo}", repo):
            bare = self.git.new(place)
            git(bare, "symbolic-ref", "HEAD", "refs/heads/master")
            self.git.add(place, {"README.md": b"# new\n"}, "master")

    def words(self, folder: Path, *more: str) -> list[str]:
        to = ["--repo", REPO, "--set", f"git={self.git.url}", "--yes", "--json"]
        return ["publish", "modelscope", str(folder), *to, *more]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("modelscope_hub")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Ann")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "ann@example.org")
    server = Hub(tmp_path / "host")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", TOKEN)
    monkeypatch.setattr("ftx_modelscope.studio.POLL", 0.0)
    yield server
    server.git.stop()
    server.stop()


@pytest.fixture(scope="module")
def made_app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("apps"), "modelscope")


@pytest.fixture
def app(made_app: Path, tmp_path: Path) -> Path:
    """The app without its model, which is quicker to look through."""
    return Path(shutil.copytree(made_app, tmp_path / "app", ignore=shutil.ignore_patterns("model")))


def test_dry_run_push_deploy_receipt(ftx: Any, hub: Hub, made_app: Path, tmp_path: Path) -> None:
    app = proven(Path(shutil.copytree(made_app, tmp_path / "app")))
    dry = ftx(*hub.words(app, "--dry-run"))
    assert (dry.code, dry.events[0]["exists"], hub.spaces) == (0, False, {}), dry.err
    result = ftx(*hub.words(app))
    assert result.code == 0, result.err
    asked = hub.spaces[REPO]
    assert (asked["visibility"], asked["private"], asked["license"]) == ("private", True, "apache-2.0")
    assert (asked["sdk_type"], asked["sdk_version"]) == ("gradio", "6.10.0")
    assert asked["base_image"] == "ubuntu22.04-py311-torch2.9.1-a"
    assert hub.deployed == [REPO]
    (entry,) = json.loads((app / "publish.json").read_text("utf-8"))["published"]
    assert entry["address"] == f"{hub.url}/studios/{REPO}" and entry["public"] is False
    remote = hub.git.contents(f"studios/{REPO}")
    assert set(remote) == {*entry["files"], ".gitattributes"}
    assert remote["model/model.safetensors"] == (app / "model" / "model.safetensors").read_bytes()
    head = yaml.safe_load(remote["README.md"].decode().split("---")[1])
    assert (head["license"], head["deployspec"]) == ("Apache License 2.0", {"entry_file": "app.py"})
    # The same again sends nothing and does not start it anew.
    again = ftx(*hub.words(app))
    assert (again.code, again.events[-1]["sent_files"], hub.deployed) == (0, 0, [REPO]), again.err


def test_secrets_variables_and_the_public_step(ftx: Any, hub: Hub, app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_WORD", SECRET)
    given = ("--secret", "SEARCH_WORD", "--variable", "APP_TITLE=Two cats")
    result = ftx(*hub.words(app, *given, "--public"))
    assert result.code == 0, result.err
    kept = {f"secrets {REPO}": {"SEARCH_WORD": SECRET}, f"variables {REPO}": {"APP_TITLE": "Two cats"}}
    assert hub.settings == kept
    assert hub.spaces[REPO]["visibility"] == "public" and result.events[-1]["public"]
    assert SECRET not in result.out + result.err + (app / "publish.json").read_text("utf-8")
    # Another value takes the place of the first, once it is deployed again.
    monkeypatch.setenv("SEARCH_WORD", "another-value")
    again = ftx(*hub.words(app, "--secret", "SEARCH_WORD", "--public"))
    assert (again.code, hub.deployed) == (0, [REPO, REPO]), again.err
    assert hub.settings[f"secrets {REPO}"] == {"SEARCH_WORD": "another-value"}


def test_one_that_does_not_run_shows_its_log_and_is_deployed_again(ftx: Any, hub: Hub, app: Path) -> None:
    hub.after = ["Building", "BuildFailed"]
    hub.logs = {"build": ["collecting", "ERROR: No matching distribution found for gradoi"]}
    result = ftx(*hub.words(app))
    assert (result.code, "(buildfailed): collecting | ERROR: No matching" in result.err) == (5, True), result.err
    hub.after = ["Building", "Running"]
    again = ftx(*hub.words(app))
    assert (again.code, again.events[-1]["sent_files"], hub.deployed) == (0, 0, [REPO, REPO]), again.err


def test_one_that_takes_too_long(ftx: Any, hub: Hub, app: Path) -> None:
    hub.after = ["Building"]
    result = ftx(*hub.words(app, "--set", "wait=1"))
    assert (result.code, "does not run after 1 s (building)" in result.err) == (5, True), result.err
    assert ftx(*hub.words(app, "--set", "wait=0")).code == 0


def test_another_machine_takes_a_deployment(ftx: Any, hub: Hub, app: Path) -> None:
    assert ftx(*hub.words(app)).code == 0
    moved = ("--set", "hardware=xgpu/8v-cpu-32g-mem-16g")
    assert ftx(*hub.words(app, *moved)).code == 0
    assert hub.spaces[REPO]["hardware"] == "xgpu/8v-cpu-32g-mem-16g" and len(hub.deployed) == 2


def test_apps_for_other_places(ftx: Any, hub: Hub, app: Path) -> None:
    entry = (app / "README.md").read_text("utf-8")
    (app / "README.md").write_text(entry.replace("entry_file: app.py", "entry_file: page.py"), "utf-8")
    assert "starts it by page.py, and there is no such file" in ftx(*hub.words(app)).err
    (app / "README.md").write_text("---\ndeployspec: app.py\n---\n", "utf-8")
    assert "write deployspec as" in ftx(*hub.words(app)).err
    (app / "README.md").write_text("---\nsdk: gradio\n---\n", "utf-8")
    result = ftx(*hub.words(app))
    assert (result.code, "make the app for modelscope" in result.err, hub.spaces) == (2, True, {}), result.err


def test_gits_address_holds_no_token(ftx: Any, hub: Hub, merged: Path) -> None:
    result = ftx(*hub.words(merged, "--base", BASE, "--set", "by=git", "--set", "git=https://ann:hidden-word@git.org"))
    assert (result.code, "holds more than an address" in result.err, "hidden-word" in result.err) == (2, True, False)


def test_a_visibility_that_nobody_knows_is_not_taken_for_private() -> None:
    from ftx_modelscope.studio import Studio

    class Told(Studio):
        def _about(self, repo: str, api: Any) -> dict[str, Any]:
            return {"visibility": repo}

    assert [Told()._private(one, None) for one in ("private", "public", "internal")] == [True, False, None]


def test_a_model_by_git(ftx: Any, hub: Hub, merged: Path) -> None:
    words = hub.words(merged, "--base", BASE, "--set", "by=git")
    result = ftx(*words)
    assert result.code == 0, result.err
    assert REPO in hub.private
    assert hub.git.contents(REPO)["model.safetensors"] == (merged / "model.safetensors").read_bytes()
    again = ftx(*words)
    assert (again.code, again.events[-1]["sent_files"]) == (0, 0), again.err
