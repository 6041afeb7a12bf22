"""Fetching what was published: compared with the listing, gone on from what broke, there whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftx.artifact import Artifact
from hub_publishing import Fault
from hub_servers import TOKEN
from published import BASE, adapter_copy, made_once, merged_copy  # noqa: F401 (fixtures)
from test_publish_hubs import REPO, Place, place  # noqa: F401 (a fixture)


def fetch(ftx: Any, at: Place, out: Path, revision: str = "") -> Any:
    return ftx("download", f"{at.publisher}:{REPO}{revision}", "--out", out, "--json")


def around(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if out.name in path.name)


@pytest.mark.usefixtures("place")
class TestDownload:
    @pytest.fixture
    def at(self, request: pytest.FixtureRequest, ftx: Any, merged: Path) -> Place:
        """A hub that an artefact was published to."""
        found: Place = request.getfixturevalue("place")
        result = ftx(*found.words(merged))
        assert result.code == 0, result.err
        return found

    def test_what_was_published_comes_back(self, ftx: Any, at: Place, merged: Path, tmp_path: Path) -> None:
        out = tmp_path / "back"
        (event,) = fetch(ftx, at, out).events
        assert event["revision"] == at.server.head(REPO, at.branch)
        assert (out / "model.safetensors").read_bytes() == (merged / "model.safetensors").read_bytes()
        assert Artifact.open(out).kind == "merged"
        assert {path.name for path in out.rglob("*") if path.is_file()} == set(at.files())
        assert around(out) == ["back"]
        result = fetch(ftx, at, out)
        assert (result.code, "exists already" in result.err) == (2, True), result.err

    def test_revisions(self, ftx: Any, at: Place, tmp_path: Path) -> None:
        commit = at.server.head(REPO, at.branch)
        at.server.add(REPO, {"config.json": b"{}"}, at.branch)
        assert fetch(ftx, at, tmp_path / "one", f"@{commit}").code == 0
        assert (tmp_path / "one" / "ftx.json").is_file()
        result = fetch(ftx, at, tmp_path / "two", "@mian")
        assert (result.code, "has no revision 'mian'" in result.err) == (5, True), result.err
        assert around(tmp_path / "two") == []

    def test_a_broken_download_goes_on(self, ftx: Any, at: Place, tmp_path: Path, monkeypatch: Any) -> None:
        if at.publisher == "modelscope":
            from modelscope_hub import _download

            monkeypatch.setattr(_download, "DOWNLOAD_RETRY_TIMES", 0)
        out = tmp_path / "back"
        at.server.cut = True
        result = fetch(ftx, at, out)
        assert result.code == 5 and "run the same command again" in result.err, result.err
        assert not out.exists()
        at.server.cut = False
        assert fetch(ftx, at, out).code == 0
        assert around(out) == ["back"]

    def test_what_arrived_is_not_fetched_again(self, ftx: Any, at: Place, tmp_path: Path, monkeypatch: Any) -> None:
        if at.publisher == "modelscope":
            from modelscope_hub import _download

            monkeypatch.setattr(_download, "DOWNLOAD_RETRY_TIMES", 0)
        out = tmp_path / "back"
        at.server.faults = [Fault("GET", "model.safetensors", 0, 99)]
        assert fetch(ftx, at, out).code == 5
        at.server.faults = []
        at.server.asked.clear()
        assert fetch(ftx, at, out).code == 0
        again = [line for line in at.server.asked if line.startswith("GET") and "tokenizer.model" in line]
        assert again == []

    def test_what_is_not_as_listed(self, ftx: Any, at: Place, tmp_path: Path, monkeypatch: Any) -> None:
        from ftx.publish import download

        real = download.measured

        def spoilt(folder: Path) -> Any:
            (folder / "config.json").write_text("{ }", "utf-8")
            return real(folder)

        monkeypatch.setattr(download, "measured", spoilt)
        out = tmp_path / "back"
        result = fetch(ftx, at, out)
        assert (result.code, "config.json of ann/cats did not arrive as" in result.err) == (7, True), result.err
        assert not out.exists()
        monkeypatch.setattr(download, "measured", real)
        assert fetch(ftx, at, out).code == 0

    def test_private_and_missing_ones(self, ftx: Any, at: Place, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.delenv(at.token)
        result = fetch(ftx, at, tmp_path / "back")
        assert result.code == 5 and (at.token in result.err or "is private" in result.err), result.err
        monkeypatch.setenv(at.token, TOKEN)
        result = ftx("download", f"{at.publisher}:ann/none", "--out", tmp_path / "back")
        assert (result.code, "there is no ann/none" in result.err) == (5, True), result.err

    def test_what_a_token_may_not_read(self, ftx: Any, at: Place, tmp_path: Path) -> None:
        at.server.faults = [Fault("GET|HEAD", f"models/{REPO}", 403, 99)]
        result = fetch(ftx, at, tmp_path / "back")
        assert (result.code, f"this token may not read {REPO}" in result.err) == (5, True), result.err
        if at.publisher == "huggingface":
            gated = {"X-Error-Code": "GatedRepo"}
            at.server.faults = [Fault("GET|HEAD", "/resolve/", 403, 99, head=gated)]
            result = fetch(ftx, at, tmp_path / "back")
            assert (result.code, "is gated: accept its terms" in result.err) == (5, True), result.err

    def test_paths_that_lead_out(self, ftx: Any, at: Place, tmp_path: Path) -> None:
        at.server.add(REPO, {"../x.json": b"{}"}, at.branch)
        result = fetch(ftx, at, tmp_path / "back")
        assert (result.code, "leads out of the folder" in result.err) == (5, True), result.err
        assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    "name",
    ["cats", "huggingface:cats", "huggingface:a/b/c", "huggingface:a/b@", "huggingface:-a/b", "huggingface:a/.."],
)
def test_wrong_names(ftx: Any, tmp_path: Path, name: str) -> None:
    result = ftx("download", name, "--out", tmp_path / "x")
    assert (result.code, "OWNER/NAME" in result.err or "begins with" in result.err) == (2, True), result.err
    result = ftx("download", "hugingface:a/b", "--out", tmp_path / "x")
    assert (result.code, "did you mean 'huggingface'?" in result.err) == (2, True), result.err
