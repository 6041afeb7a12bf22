"""Hugging Face filled by git and git-lfs instead of its own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benches import REPO, as_imported_now
from hub_by_git import HuggingFaceGit
from hub_publishing import gradio_app
from hub_servers import TOKEN, git
from published import BASE, adapter_copy, made_once, merged_copy  # noqa: F401 (fixtures)

pytestmark = pytest.mark.system  # needs git-lfs


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HuggingFaceGit]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Ann")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "ann@example.org")
    as_imported_now(tmp_path, monkeypatch)
    server = HuggingFaceGit(tmp_path / "host", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.stop()


def words(folder: Path, *more: str) -> list[str]:
    return ["publish", "huggingface", str(folder), "--repo", REPO, "--base", BASE, "--yes", "--json", *more]


def test_it_is_made_by_the_client_and_filled_by_git(ftx: Any, hub: HuggingFaceGit, merged: Path) -> None:
    result = ftx(*words(merged, "--set", "by=git"))
    assert result.code == 0, result.err
    (found,) = json.loads((merged / "publish.json").read_text("utf-8"))["published"]
    assert REPO in hub.private and found["public"] is False
    assert found["revision"] == git(hub.root / f"{REPO}.git", "rev-parse", "HEAD").strip()
    assert hub.contents(REPO)["model.safetensors"] == (merged / "model.safetensors").read_bytes()
    assert sorted(set(hub.contents(REPO))) == sorted([*found["files"], ".gitattributes"])
    assert not [line for line in hub.asked if TOKEN in line]
    hub.asked.clear()
    assert ftx(*words(merged, "--set", "by=git")).events[-1]["sent_files"] == 0
    assert not [line for line in hub.asked if "receive-pack" in line]


def test_a_token_that_may_only_read(ftx: Any, hub: HuggingFaceGit, adapter: Path) -> None:
    hub.users["oauth2"] = (TOKEN, False)
    result = ftx(*words(adapter, "--set", "by=git"))
    assert (result.code, "write access" in result.err) == (5, True), result.err
    assert not (adapter / "publish.json").exists()


def test_a_wrong_way(ftx: Any, hub: HuggingFaceGit, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = ftx(*words(adapter, "--set", "by=ftp"))
    assert (result.code, "'client' or 'git'" in result.err) == (2, True), result.err
    monkeypatch.setattr("ftx_huggingface.by_git.LARGEST", 1000)
    result = ftx(*words(adapter, "--set", "by=git"))
    assert (result.code, "larger than the 5 GB" in result.err) == (2, True), result.err


def test_a_space_does_not_go_by_git(ftx: Any, hub: HuggingFaceGit, tmp_path: Path) -> None:
    result = ftx(*words(gradio_app(tmp_path / "app"), "--set", "by=git"))
    assert (result.code, "--set by=git is for models" in result.err) == (2, True), result.err


def test_large_files_in_one_piece_are_told_of(
    ftx: Any, hub: HuggingFaceGit, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftx.publish.road.LARGE", 100_000)
    told = [word for word in words(adapter, "--set", "by=git", "--dry-run") if word not in ("--json", "--yes")]
    said = " ".join(ftx(*told).err.split())
    assert "sent in one piece, so that a cut costs all of it:" in said and "max_shard_size" in said
    by_client = [word for word in told if word not in ("--set", "by=git")]
    assert "in one piece" not in ftx(*by_client).err
