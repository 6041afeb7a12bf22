"""The quickstart's adapter and merged model: tuned, verified, published to each hub, fetched anew, verified again."""
# ruff: noqa: F811 (fixtures of other modules)

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from ftx.artifact import Artifact
from ftx.console import Console
from ftx.export.merge import merge
from ftx.export.receipt import read_receipt
from ftx.train.fit import fit
from ftx_internlm2.family import InternLM2
from hub_servers import TOKEN
from lfs_server import LfsHost
from published import BASE, CARD
from test_publish_hubs import REPO, Place, place  # noqa: F401 (a fixture)
from test_train import plan_for

BASE_FOLDER = Path(__file__).parents[1] / "plugins" / "ftx_quickstart" / "base"


@pytest.fixture(scope="session")
def tuned_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/, run/adapter and run/merged of the model that the quickstart tunes."""
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copytree(BASE_FOLDER, folder / "base")
    (folder / "base" / "README.md").write_text(CARD, "utf-8")
    fit(plan_for(folder / "base", write_rows(folder / "rows.jsonl", 4), folder / "run", train__max_steps=1))
    adapter = Artifact.open(folder / "run" / "adapter")
    merge(adapter, InternLM2(), adapter.base, folder / "run" / "merged", Console(quiet=True))
    return folder


@pytest.fixture
def tuned(tuned_once: Path, ftx: Any) -> Path:
    """The same, verified for real by the first who asks."""
    if not (tuned_once / "run" / "adapter" / "verify.json").is_file():
        result = ftx("verify", tuned_once / "run")
        assert result.code == 0, result.err
    return tuned_once


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "README.md"}


def fetched_and_verified(ftx: Any, name: str, artefact: Path, out: Path, *more: str) -> None:
    """Fetch what was published of the artefact: its seal and receipt hold, its weights are the same, it answers so."""
    result = ftx("download", name, "--out", out, "--json", "--verify", *more)
    assert result.code == 0, result.err
    first, *verified = result.events
    assert (first["event"], first["folder"]) == ("downloaded", str(out))
    assert verified and all(event["passed"] for event in verified)
    back = Artifact.open(out)
    receipt = read_receipt(back)
    assert receipt is not None and receipt.passed
    weights = next(path for path in artefact.glob("*.safetensors"))
    assert (out / weights.name).read_bytes() == weights.read_bytes()
    shutil.rmtree(out)


class TestHubs:
    def test_a_merged_model(self, ftx: Any, place: Place, tuned: Path, tmp_path: Path) -> None:
        merged = Path(shutil.copytree(tuned / "run" / "merged", tmp_path / "merged"))
        assert ftx(*place.words(merged)).code == 0
        commit = place.server.head(REPO, place.branch)
        out = tmp_path / "fresh"
        result = ftx("download", f"{place.publisher}:{REPO}@{commit}", "--out", out, "--json")
        assert result.code == 0, result.err
        receipt = read_receipt(Artifact.open(out))
        assert receipt is not None and receipt.passed, "what was proven before it left came along"
        assert ftx("verify", out).code == 0
        shutil.rmtree(out)
        place.server.add(REPO, {"config.json": b"{}"}, place.branch)
        fetched_and_verified(ftx, f"{place.publisher}:{REPO}@{commit}", merged, out)

    def test_an_adapter_and_its_base(self, ftx: Any, place: Place, tuned: Path, tmp_path: Path) -> None:
        adapter = Path(shutil.copytree(tuned / "run" / "adapter", tmp_path / "adapter"))
        assert ftx(*place.words(adapter)).code == 0
        name, out = f"{place.publisher}:{REPO}", tmp_path / "fresh"
        result = ftx("download", name, "--out", out)
        assert result.code == 0 and f"it is an adapter of {BASE}" in " ".join(result.err.split()), result.err
        shutil.rmtree(out)
        result = ftx("download", name, "--out", out, "--verify")
        assert result.code == 2 and f"an adapter of {BASE}: add --base FOLDER" in result.err, result.err
        assert Artifact.open(out).kind == "adapter", "it is whole all the same"
        shutil.rmtree(out)
        place.server.add(BASE, files_of(tuned / "base"), place.branch)
        base = tmp_path / "base"
        fetched_and_verified(ftx, name, adapter, out, "--base", str(base))
        assert files_of(base) == files_of(tuned / "base")
        place.server.asked.clear()
        fetched_and_verified(ftx, name, adapter, out, "--base", str(base))
        assert not [line for line in place.server.asked if "tiny-base" in line], "it is there already"

    @pytest.mark.parametrize("place", ["huggingface"], indirect=True)
    def test_another_base(self, ftx: Any, place: Place, tuned: Path, tmp_path: Path, tiny: Path) -> None:
        adapter = Path(shutil.copytree(tuned / "run" / "adapter", tmp_path / "adapter"))
        assert ftx(*place.words(adapter)).code == 0
        words = ["download", f"{place.publisher}:{REPO}", "--verify"]
        result = ftx(*words, "--out", tmp_path / "one", "--base", tiny)
        assert (result.code, "is not the base this adapter was trained on" in result.err) == (2, True), result.err
        result = ftx(*words, "--out", tmp_path / "two", "--base", tmp_path / "none")
        assert (result.code, f"there is no {BASE}" in result.err) == (5, True), result.err
        assert not (tmp_path / "none").exists()

    @pytest.mark.parametrize("place", ["huggingface"], indirect=True)
    def test_one_that_answers_otherwise(self, ftx: Any, place: Place, tuned: Path, tmp_path: Path) -> None:
        """Sealed as it is, and no longer the model that was proven: what only --verify sees."""
        merged = Path(shutil.copytree(tuned / "run" / "merged", tmp_path / "merged"))
        assert ftx(*place.words(merged)).code == 0
        files = place.files()
        config = json.loads(files["generation_config.json"])
        files["generation_config.json"] = json.dumps({**config, "eos_token_id": 5}).encode()
        seal = json.loads(files["ftx.json"])
        del seal["files"]["generation_config.json"]
        files["ftx.json"] = json.dumps(seal).encode()
        place.server.add(REPO, files, place.branch)
        out = tmp_path / "fresh"
        result = ftx("download", f"huggingface:{REPO}", "--out", out, "--verify")
        assert result.code == 7 and "generation_config.json" in result.err, result.err


@pytest.mark.system  # needs git-lfs
@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_openxlab(
    ftx: Any, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: LfsHost, kind: str
) -> None:
    artefact = Path(shutil.copytree(tuned / "run" / kind, tmp_path / kind))
    at = ["--set", f"host={host.url}"]
    assert ftx("publish", "openxlab", artefact, "--repo", REPO, "--base", BASE, "--yes", *at).code == 0
    base = {"adapter": ["--base", str(tuned / "base")], "merged": []}[kind]
    fetched_and_verified(ftx, f"openxlab:{REPO}@main", artefact, tmp_path / "fresh", *base, *at)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LfsHost]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENXLAB_USER", "ann")
    monkeypatch.setenv("OPENXLAB_TOKEN", TOKEN)
    server = LfsHost(tmp_path / "host")
    server.users["ann"] = (TOKEN, True)
    server.new(REPO)
    yield server
    server.stop()
