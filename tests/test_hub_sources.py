"""Data sets on hubs, read by the hubs' real clients from servers on this machine."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from conftest import short_pauses, write_rows
from ftx import DataError, DataSource, FtxError, HubError, RecipeError, RowError
from ftx.errors import StorageError
from ftx.git_token import ASKPASS, for_command, own_environment
from ftx.plugins import load_registry
from ftx.publish.logins import save
from ftx_sources.huggingface import HuggingFace
from ftx_sources.modelscope import ModelScope
from ftx_sources.openxlab import OpenXLab
from ftx_sources.snapshot import Snapshot
from hub_servers import TOKEN, GitHost, Hub, HuggingFaceHandler, ModelScopeHandler, git

REPO = "ann/sums"
ROWS = {"train/a.jsonl": b'{"text": "1"}\n\n{"text": "2"}\n', "b.csv": "text\n三\n".encode()}
BESIDE = {
    "README.md": b"# Sums\n",
    "dataset_infos.json": b"{}",
    ".hidden.json": b"{}",
    "train/.cache/x.jsonl": b"{}\n",
    "b.csv.lock": b"",
    "picture.png": b"\x89PNG",
}
needs_lfs: Any = pytest.mark.system if shutil.which("git-lfs") is None else lambda test: test


class Remote:
    """A hub of one kind: its server, and sources that read from it."""

    def __init__(self, part: type[Snapshot], server: Hub, cache: Path, branch: str, token: str) -> None:
        self.part, self.server, self.cache = part, server, cache
        self.branch, self.token = branch, token

    def add(self, files: dict[str, bytes], repo: str = REPO, branch: str | None = None) -> str:
        return self.server.add(repo, files, branch or self.branch)

    def source(self, repo: str = REPO, **options: Any) -> Snapshot:
        if self.part is OpenXLab:
            options.setdefault("host", self.server.url)
        return self.part(repo=repo, **options)

    def kept(self) -> list[str]:
        """Names of the data files that the cache holds whole."""
        return sorted(path.name for path in self.cache.rglob("*") if path.suffix in (".jsonl", ".csv"))


@pytest.fixture(params=["huggingface", "modelscope", "openxlab"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def remote(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN", "OPENXLAB_TOKEN", "OPENXLAB_USER", "MODELSCOPE_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("FTX_CACHE", str(tmp_path / "cache"))
    made = {"huggingface": _huggingface, "modelscope": _modelscope, "openxlab": _openxlab}[kind](tmp_path, monkeypatch)
    yield made
    made.server.stop()


def _huggingface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    from huggingface_hub import constants

    # These are read from the environment when the client is imported, which other tests have done offline.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    short_pauses(monkeypatch)
    server = Hub(HuggingFaceHandler)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return Remote(HuggingFace, server, tmp_path / "cache", "main", "HF_TOKEN")


def _modelscope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    pytest.importorskip("modelscope_hub")
    from modelscope_hub import _download, _legacy_api

    monkeypatch.setattr(_download, "DOWNLOAD_RETRY_TIMES", 0)
    monkeypatch.setattr(_legacy_api, "REPO_TREE_PAGE_MAX_ATTEMPTS", 1)
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "elsewhere"))
    server = Hub(ModelScopeHandler)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
    return Remote(ModelScope, server, tmp_path / "cache", "master", "MODELSCOPE_API_TOKEN")


def _openxlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Ann")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "ann@example.org")
        monkeypatch.setenv(f"GIT_{who}_DATE", "2026-01-01T00:00:00Z")
    monkeypatch.setenv("OPENXLAB_USER", "ann")
    return Remote(OpenXLab, GitHost(tmp_path / "host"), tmp_path / "cache", "main", "OPENXLAB_TOKEN")


def rows(source: DataSource) -> list[tuple[Any, str, int]]:
    return [(record.value, record.file, record.line) for record in source.records()]


def refused(call: Callable[[], object], error: type[FtxError] = HubError) -> str:
    """The one sentence of the error that `call` ends in."""
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    (sentence,) = caught.value.problems
    assert "\n" not in sentence and TOKEN not in sentence
    return str(sentence)


def test_rows_come_from_the_data_files_in_order(remote: Remote) -> None:
    commit = remote.add(ROWS | BESIDE)
    source = remote.source()
    at = f"{REPO}@{commit[:7]}"
    assert rows(source) == [
        ({"text": "三"}, f"{at}:b.csv", 2),
        ({"text": "1"}, f"{at}:train/a.jsonl", 1),
        ({"text": "2"}, f"{at}:train/a.jsonl", 3),
    ]
    assert source.resolved() == commit
    assert set(remote.kept()) >= {"a.jsonl", "b.csv"}
    assert not [path for path in remote.cache.rglob("*") if path.name in BESIDE], "only data is downloaded"


def test_the_fingerprint_is_of_the_data_alone(remote: Remote) -> None:
    remote.add(ROWS)
    remote.add(ROWS | BESIDE, branch="more")
    remote.add({"b.csv": ROWS["b.csv"], "train/c.jsonl": ROWS["train/a.jsonl"]}, branch="moved")
    remote.add(ROWS | {"b.csv": b"text\n4\n"}, branch="other")
    prints = [remote.source(revision=name).fingerprint() for name in (remote.branch, "more", "moved", "other")]
    assert prints[0] == prints[1] and len(set(prints)) == 3
    assert len(prints[0]) == 64


def test_one_object_reads_one_commit(remote: Remote) -> None:
    first = remote.add(ROWS)
    source = remote.source()
    before = source.fingerprint()
    second = remote.add({"b.csv": b"text\nnew\n"})
    assert (source.resolved(), source.fingerprint()) == (first, before)
    assert [value for value, _, _ in rows(source)] == [{"text": "三"}, {"text": "1"}, {"text": "2"}]
    assert remote.source().resolved() == second != first
    assert remote.source(revision=first).fingerprint() == before
    assert source == remote.source(), "what was resolved is no option"


def test_a_pinned_commit_in_the_cache_needs_no_network(remote: Remote) -> None:
    commit = remote.add(ROWS)
    before = remote.source(revision=commit).fingerprint()
    asked = len(remote.server.asked)
    assert remote.source(revision=commit).fingerprint() == before
    assert remote.server.asked[asked:] == []
    remote.server.stop()
    assert remote.source(revision=commit).fingerprint() == before
    assert len(rows(remote.source(revision=commit))) == 3
    assert len(rows(remote.source(revision=commit, files=["b.*"]))) == 1


def test_patterns_choose_files(remote: Remote) -> None:
    remote.add(ROWS | {"train/c.jsonl": b'{"text": "5"}\n'})
    chosen = remote.source(files=["train/c*", "*.csv"])
    assert [value["text"] for value, _, _ in rows(chosen)] == ["三", "5"]
    assert remote.kept() == ["b.csv", "c.jsonl"]
    assert [value["text"] for value, _, _ in rows(remote.source())] == ["三", "1", "2", "5"]
    assert chosen.fingerprint() != remote.source().fingerprint()


def test_capital_endings_are_data_too(remote: Remote) -> None:
    remote.add({"A.JSONL": b'{"text": "1"}\n'})
    assert len(rows(remote.source())) == 1


def test_unknown_repository(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(remote.token, TOKEN)
    remote.add(ROWS)
    assert "there is no" in refused(remote.source("ann/none").resolved)
    assert "there is no" in refused(remote.source("ann/none", revision="0" * 40).fingerprint)


def test_private_repository_without_a_token(remote: Remote) -> None:
    remote.add(ROWS)
    remote.server.private.add(REPO)
    sentence = refused(remote.source().resolved)
    assert "private" in sentence and remote.token in sentence


def test_private_repository_with_a_wrong_and_a_right_token(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    remote.add(ROWS)
    remote.server.private.add(REPO)
    monkeypatch.setenv(remote.token, TOKEN[:-1])
    sentence = refused(remote.source().resolved)
    assert "with this token" in sentence and TOKEN[:-1] not in sentence
    monkeypatch.setenv(remote.token, TOKEN)
    assert len(rows(remote.source())) == 3
    out, err = capfd.readouterr()
    assert TOKEN[:-1] not in out + err + caplog.text
    holding = [path for path in remote.cache.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert holding == []


@pytest.mark.parametrize("revision", ["mian", "0" * 40])
def test_unknown_revision(remote: Remote, revision: str) -> None:
    remote.add(ROWS)
    sentence = refused(remote.source(revision=revision).fingerprint)
    assert f"has no revision '{revision}'" in sentence or f"has no commit {revision}" in sentence
    assert remote.kept() == []


def test_no_network(remote: Remote) -> None:
    remote.server.stop()
    for revision in (None, "0" * 40):
        sentence = refused(remote.source(revision=revision).fingerprint)
        assert "cannot be reached" in sentence and remote.server.url in sentence
    assert remote.kept() == []


def test_no_data_files(remote: Remote) -> None:
    commit = remote.add(BESIDE)
    sentence = refused(remote.source().fingerprint, DataError)
    assert sentence.startswith(f"{REPO}@{commit[:7]} on ") and "holds no data files; ftx reads .json" in sentence
    refused(lambda: rows(remote.source()), DataError)


def test_a_pattern_that_matches_nothing(remote: Remote) -> None:
    remote.add(ROWS)
    for pattern in ("test/*", "README.md", "../*"):
        sentence = refused(remote.source(files=["*.csv", pattern]).fingerprint, DataError)
        assert f"has no data file that matches '{pattern}'; it has b.csv" in sentence


@pytest.mark.parametrize("repo", ["a/b/c", "../x", "x", "a/..", "-a/b", "a/b c", "a/", "a/b..c", "https://a/b"])
def test_wrong_names_of_repositories(kind: str, repo: str) -> None:
    with pytest.raises(ValidationError, match="must be owner/name"):
        load_registry().source(kind)(repo=repo)


@pytest.mark.parametrize("revision", ["", "-x", "../x", "a b", "/a", "a..b", "a^", "@{1}", "a\n"])
def test_wrong_names_of_revisions(kind: str, revision: str) -> None:
    with pytest.raises(ValidationError, match="is no name of a branch, tag or commit"):
        load_registry().source(kind)(repo=REPO, revision=revision)


def test_the_command_line_tells_a_wrong_name_in_one_sentence(ftx: Any, tiny: Path, kind: str, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"model: {tiny}\ndata: {{sets: [{{source: {{name: {kind}, repo: a/b/c}}}}]}}\n", "utf-8")
    result = ftx("plan", recipe)
    assert result.code == 2 and "repo: must be owner/name (given: 'a/b/c')" in result.err


def test_the_command_line_ends_with_5_for_the_hub(ftx: Any, tiny: Path, remote: Remote, tmp_path: Path) -> None:
    remote.server.stop()
    host = f", host: '{remote.server.url}'" if remote.part is OpenXLab else ""
    recipe = tmp_path / "r.yaml"
    source = f"{{name: {remote.part.name}, repo: {REPO}{host}}}"
    recipe.write_text(f"model: {tiny}\ndata: {{sets: [{{source: {source}}}]}}\n", "utf-8")
    result = ftx("plan", recipe)
    assert result.code == 5 and "cannot be reached" in result.err and "Traceback" not in result.err


def test_an_interrupted_download_leaves_nothing_half_made(remote: Remote) -> None:
    commit = remote.add({"a.jsonl": b'{"text": "1"}\n' * 2000})
    remote.server.cut = True
    refused(remote.source(revision=commit).fingerprint)
    assert remote.kept() == []
    remote.server.cut = False
    assert len(rows(remote.source(revision=commit))) == 2000
    left = [path for path in remote.cache.rglob("*") if path.name.startswith(f".{commit}.") and path.suffix != ".lock"]
    assert left == []


@pytest.mark.parametrize("kind", ["modelscope", "openxlab"])
def test_ctrl_c_leaves_nothing_half_made(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.add(ROWS)
    whole = remote.part._download  # type: ignore[attr-defined]

    def stopped(self: Any, folder: Path) -> None:
        whole(self, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(remote.part, "_download", stopped)
    with pytest.raises(KeyboardInterrupt):
        remote.source().fingerprint()
    assert remote.kept() == []


def test_broken_rows_are_named_by_their_repository(remote: Remote) -> None:
    commit = remote.add({"a.jsonl": b'{"text": \n'})
    (record,) = remote.source().records()
    assert isinstance(record.value, RowError)
    assert (record.file, record.line) == (f"{REPO}@{commit[:7]}:a.jsonl", 1)
    remote.add({"a.jsonl": b"\xff\xfe"})
    sentence = refused(lambda: rows(remote.source()), DataError)
    assert sentence.startswith(REPO) and str(remote.cache) not in sentence


def test_a_cache_that_cannot_be_written(remote: Remote) -> None:
    remote.add(ROWS)
    remote.cache.write_text("a file, where the cache should be", "utf-8")
    assert refused(remote.source().fingerprint, StorageError)


@pytest.mark.parametrize("name", ["../../../evil.jsonl", "/tmp/evil.jsonl", "train/../../../../../../evil.jsonl"])
@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_paths_never_leave_the_snapshot(remote: Remote, name: str) -> None:
    remote.add(ROWS | {name: b'{"text": "evil"}\n'})
    before = Path("/tmp/evil.jsonl").exists()
    refused(remote.source().fingerprint, DataError)
    assert not list(remote.cache.parent.rglob("evil.jsonl"))
    assert Path("/tmp/evil.jsonl").exists() == before


def test_links_in_the_cache_never_leave_the_snapshot(remote: Remote, tmp_path: Path) -> None:
    commit = remote.add(ROWS)
    remote.source(revision=commit).fingerprint()
    (tmp_path / "evil.jsonl").write_text('{"text": "evil"}\n', "utf-8")
    (folder,) = (path for path in remote.cache.rglob(commit) if path.is_dir())
    (folder / "z.jsonl").symlink_to(tmp_path / "evil.jsonl")
    assert "z.jsonl leads out" in refused(remote.source(revision=commit).fingerprint, DataError)
    (folder / "z.jsonl").unlink()
    (folder / "z.jsonl").symlink_to("nothing.jsonl")
    assert "z.jsonl leads to no file" in refused(remote.source(revision=commit).fingerprint, DataError)


@pytest.mark.parametrize("kind", ["huggingface"])
def test_hugging_face_offline(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another process, because the client reads HF_HUB_OFFLINE when it is imported."""
    commit = remote.add(ROWS)
    before = remote.source().fingerprint()
    program = (
        "import sys; from ftx import FtxError; from ftx_sources.huggingface import HuggingFace\n"
        "try: print(HuggingFace(repo=sys.argv[1], revision=sys.argv[2] or None).fingerprint())\n"
        "except FtxError as error: print(error.exit_code, error)"
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(remote.cache))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))

    def offline(repo: str, revision: str) -> str:
        command = [sys.executable, "-c", program, repo, revision]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    asked = len(remote.server.asked)
    assert offline(REPO, commit) == offline(REPO, "") == before
    assert offline("ann/none", commit).startswith("5 ann/none at ")
    assert len(remote.server.asked) == asked


@pytest.mark.parametrize("kind", ["huggingface"])
def test_hugging_face_gated(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.add(ROWS)
    gated = {"X-Error-Code": "GatedRepo"}
    monkeypatch.setattr(HuggingFaceHandler, "found", lambda self, *about: self.json(403, {"error": "x"}, gated))
    assert "is gated" in refused(remote.source().resolved)


@pytest.mark.parametrize("kind", ["modelscope"])
def test_modelscope_damaged_content_is_refused(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelscope_hub import _download

    monkeypatch.setattr(_download, "DOWNLOAD_HASH_RETRY_TIMES", 1)
    commit = remote.add(ROWS)
    good = ModelScopeHandler.answer

    def flipped(self: Any, status: int, body: bytes = b"", headers: Any = None, **options: Any) -> None:
        wrong = bytes([body[0] ^ 1]) + body[1:] if headers == {"Content-Type": "x/y"} else body
        good(self, status, wrong, headers, **options)

    monkeypatch.setattr(ModelScopeHandler, "answer", flipped)
    refused(remote.source(revision=commit).fingerprint)
    assert remote.kept() == []


def test_modelscope_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    sentence = refused(ModelScope(repo=REPO).resolved, RecipeError)
    assert sentence.endswith("pip install 'ftx[modelscope]'")


class TestGit:
    """What only the source over git can do, and get wrong."""

    @pytest.fixture
    def kind(self) -> str:
        return "openxlab"

    @pytest.fixture
    def host(self, remote: Remote) -> GitHost:
        assert isinstance(remote.server, GitHost)
        return remote.server

    def test_branches_tags_and_the_default_branch(self, remote: Remote, host: GitHost) -> None:
        first = remote.add(ROWS)
        other = remote.add({"b.csv": b"text\n9\n"}, branch="feature/nine")
        bare = host.bare(REPO)
        git(bare, "tag", "v1", first)
        git(bare, "tag", "-a", "v2", "-m", "two", other)
        found = [remote.source(revision=name).resolved() for name in (None, "main", "v1", "v2", "feature/nine")]
        assert found == [first, first, first, other, other]
        git(bare, "symbolic-ref", "HEAD", "refs/heads/feature/nine")
        assert remote.source().resolved() == other
        assert "did you mean 'feature/nine'" in refused(remote.source(revision="feature/nin").resolved)

    def test_a_commit_that_is_no_tip(self, remote: Remote, host: GitHost) -> None:
        first = remote.add(ROWS)
        bare = host.bare(REPO)
        tree = git(bare, "rev-parse", "main^{tree}").strip()
        git(bare, "update-ref", "refs/heads/main", git(bare, "commit-tree", tree, "-p", first, "-m", "2").strip())
        assert len(rows(remote.source(revision=first))) == 3

    def test_a_repository_without_commits(self, remote: Remote, host: GitHost) -> None:
        host.bare(REPO)
        assert "has no commits" in refused(remote.source().resolved)

    def test_a_local_repository(self, remote: Remote, host: GitHost) -> None:
        commit = remote.add(ROWS)
        assert len(rows(remote.source(host=host.root.as_uri()))) == 3
        assert host.asked == []
        assert remote.source(host=host.root.as_uri()).resolved() == commit
        assert "there is no repository" in refused(remote.source("a/none", host=host.root.as_uri()).resolved)

    def test_the_snapshot_is_plain_files_in_their_place(self, remote: Remote) -> None:
        commit = remote.add(ROWS | BESIDE | {".gitattributes": b"*.csv text eol=crlf\n"})
        remote.source().fingerprint()
        folder = remote.cache / "hub" / "openxlab" / "ann--sums" / commit
        kept = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        assert {name: path.read_bytes() for name, path in kept.items()} == ROWS, "no attribute changes line ends"
        assert sorted(path.name for path in folder.parent.iterdir()) == [f".{commit}.lock", commit]

    def test_links(self, remote: Remote, host: GitHost) -> None:
        inside: dict[str, bytes | Path] = {**ROWS, "z.jsonl": Path("y.jsonl"), "y.jsonl": Path("train/a.jsonl")}
        host.add(REPO, inside, "main")
        assert len(rows(remote.source())) == 7
        for name, target, why in (
            ("up", "../../../../etc/passwd", "leads out"),
            ("root", "/etc/passwd", "leads out"),
            ("gone", "nothing.jsonl", "leads to no file"),
            ("self", "z.jsonl", "link to itself"),
        ):
            link: dict[str, bytes | Path] = {**ROWS, "z.jsonl": Path(target)}
            host.add(REPO, link, name)
            assert why in refused(remote.source(revision=name).fingerprint, DataError)

    def test_the_token_is_in_no_command_line_and_no_file(
        self, remote: Remote, host: GitHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remote.add(ROWS)
        host.private.add(REPO)
        monkeypatch.setenv("OPENXLAB_TOKEN", TOKEN)
        real, seen = subprocess.run, []

        def spy(command: list[str], **options: Any) -> Any:
            if "GIT_ASKPASS" in options.get("env", {}):  # not the host's own
                script = Path(options["env"]["GIT_ASKPASS"])
                modes = [stat.S_IMODE(path.stat().st_mode) for path in (script, script.parent)]
                seen.append((command, script.read_text("utf-8"), modes, options["env"]["GIT_TERMINAL_PROMPT"]))
            return real(command, **options)

        monkeypatch.setattr("ftx_sources.openxlab.subprocess.run", spy)
        assert len(rows(remote.source())) == 3
        assert seen
        for command, script, modes, prompt in seen:
            assert TOKEN not in " ".join(command) + script
            assert (modes, prompt) == ([0o700, 0o700], "0")
            assert "credential.helper=" in command

    @pytest.mark.parametrize(
        ("question", "said"),
        [
            ("Username for 'https://git.example.org': ", "ann\n"),
            ("Password for 'https://ann@git.example.org': ", f"{TOKEN}\n"),
            ("Password for 'https://a%40b@git.example.org/x/y.git': ", f"{TOKEN}\n"),
            ('Password for "https://git.example.org/x/y.git"', f"{TOKEN}\n"),
            ("Password for 'https://git.example.org.evil.net': ", ""),
            ("Password for 'https://git.example.org:8080': ", ""),
            ("Password for 'https://git.example.org@evil.net': ", ""),
            ("Enter passphrase for key '/x': ", ""),
        ],
    )
    def test_the_token_is_told_to_its_host_only(self, tmp_path: Path, question: str, said: str) -> None:
        script = tmp_path / "askpass"
        script.write_text(ASKPASS, "utf-8")
        own = {"FTX_GIT_HOST": "git.example.org", "FTX_GIT_USER": "ann", "FTX_GIT_SECRET": TOKEN}
        done = subprocess.run(
            ["sh", script, question], env=os.environ | own, capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.returncode == 0) == (said, bool(said))

    def test_the_token_is_not_sent_in_clear(self, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENXLAB_TOKEN", TOKEN)
        assert "in clear" in refused(remote.source(host="http://git.example.org").resolved, RecipeError)

    @pytest.mark.parametrize("host", ["git.example.org", "ssh://x", "https://", "ext::sh -c x", "--upload-pack=x"])
    def test_wrong_hosts(self, host: str) -> None:
        with pytest.raises(ValidationError, match="must begin with https"):
            OpenXLab(repo=REPO, host=host)

    @pytest.mark.parametrize("host", ["https://ann:secret@git.example.org", "https://tok@git.example.org"])
    def test_a_host_with_a_token(self, host: str) -> None:
        with pytest.raises(ValidationError, match="holds more than an address"):
            OpenXLab(repo=REPO, host=host)

    def test_git_missing(self, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
        assert refused(remote.source().resolved, RecipeError) == "the source 'openxlab' needs git: install it"

    def test_git_lfs_missing(
        self, remote: Remote, host: GitHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remote.add({"a.jsonl": host.lfs(REPO, b'{"text": "1"}\n' * 99)})
        (tmp_path / "bin").mkdir()
        for tool in ("git", "sh"):
            (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        assert "install git-lfs" in refused(remote.source().fingerprint, RecipeError)
        assert remote.kept() == []

    @needs_lfs
    @pytest.mark.parametrize("private", [False, True])
    def test_git_lfs(self, remote: Remote, host: GitHost, monkeypatch: pytest.MonkeyPatch, private: bool) -> None:
        pointer = host.lfs(REPO, b'{"text": "1"}\n' * 500)
        image = host.lfs(REPO, b"\x89PNG" * 99)
        attributes = b"*.jsonl filter=lfs diff=lfs merge=lfs -text\n"
        remote.add({"a.jsonl": pointer, "b.csv": ROWS["b.csv"], "c.png": image, ".gitattributes": attributes})
        if private:
            host.private.add(REPO)
            monkeypatch.setenv("OPENXLAB_TOKEN", TOKEN)
        assert len(rows(remote.source())) == 501
        fetched = [line for line in host.asked if "info/lfs/objects/" in line and "batch" not in line]
        assert len(fetched) == 1, "the picture stays where it is"

    @needs_lfs
    def test_git_lfs_without_the_object(self, remote: Remote, host: GitHost) -> None:
        pointer = host.lfs(REPO, b'{"text": "1"}\n' * 500)
        remote.add({"a.jsonl": pointer})
        shutil.rmtree(host.root / f"{REPO}.git" / "lfs")
        sentence = refused(remote.source().fingerprint)
        assert "Git LFS of http" in sentence and "a.jsonl" in sentence and "does not exist" in sentence
        assert remote.kept() == []


def test_git_gets_the_token_for_commands_that_speak_to_the_host(tmp_path: Path) -> None:
    whole = own_environment(tmp_path, "git.example.org", "ann", TOKEN)
    assert "FTX_GIT_SECRET" not in for_command(whole, "init")
    for command in ("ls-remote", "fetch", "lfs"):
        given = for_command(whole, command)
        assert (given["FTX_GIT_SECRET"], given["FTX_GIT_ASKED"]) == (TOKEN, str(tmp_path / "asked"))


def test_several_processes_download_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = _openxlab(tmp_path, monkeypatch)
    monkeypatch.setenv("FTX_CACHE", str(remote.cache))
    remote.add(ROWS)
    program = (
        "import sys; from ftx_sources.openxlab import OpenXLab\n"
        "print(OpenXLab(repo=sys.argv[1], host=sys.argv[2]).fingerprint())"
    )
    command = [sys.executable, "-c", program, REPO, remote.server.url]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(3)]
    said = {process.communicate()[0] for process in processes}
    remote.server.stop()
    assert len(said) == 1 and len(said.pop().strip()) == 64
    (kept,) = remote.cache.glob("hub/openxlab/ann--sums/[0-9a-f]*")
    assert len(kept.name) == 40


TERMS = {"README.md": b"---\nlicense: llama3\n---\n", "LICENSE.txt": b"Ask first.\n"}


@pytest.mark.parametrize("kind", ["huggingface"])
def test_a_base_model_comes_from_the_hub(remote: Remote, ftx: Any, tiny: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in tiny.iterdir() if not path.name.startswith("golden")}
    remote.server.add("ann/tiny", files | TERMS | {"pytorch_model.bin": b"not asked for"}, "main")
    data = write_rows(tmp_path / "rows.jsonl", 4)
    (plan,) = ftx("plan", "--model", "huggingface:ann/tiny@main", "--data", data, "--json").events
    assert plan["family"]["name"] == "internlm2"
    assert Path(plan["model"]["path"]).is_relative_to(remote.cache)
    assert not (Path(plan["model"]["path"]) / "pytorch_model.bin").exists()
    assert {"README.md", "LICENSE.txt"} <= {path.name for path in Path(plan["model"]["path"]).iterdir()}
    for name, code, words in (
        ("huggingface:ann/none", 5, "ann/none on Hugging Face does not exist or is private"),
        ("huggingface:ann/tiny@other", 5, "has no revision 'other'"),
        ("huggingface:tiny", 2, "must be owner/name"),
        ("gitee:ann/tiny", 2, "'gitee' is no hub that ftx fetches models from"),
    ):
        result = ftx("plan", "--model", name, "--data", data)
        assert (result.code, words in result.err) == (code, True), result.err
        assert ("--model" in result.err) == (code == 5)
    remote.server.add("ann/hidden", files, "main")
    remote.server.private.add("ann/hidden")
    words = ("plan", "--model", "huggingface:ann/hidden", "--data", data, "--json")
    assert ftx(*words).code == 5
    save(remote.server.url, "huggingface", "ann", TOKEN, "file")
    result = ftx(*words)
    assert result.code == 0, result.err
    remote.server.add("ann/rows", {"README.md": b"x"}, "main")
    assert "no model in transformers' form" in ftx("plan", "--model", "huggingface:ann/rows", "--data", data).err
