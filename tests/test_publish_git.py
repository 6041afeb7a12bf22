"""Publishing with the real git and git-lfs to a git host with LFS on this machine, and what goes wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftx.artifact import Artifact
from ftx.errors import HubError
from ftx.export.receipt import read_receipt
from ftx.publish.git_lfs import GitHost
from hub_publishing import proven
from hub_servers import git
from lfs_server import Fault, LfsHost
from published import BASE, adapter_copy, made_once, merged_copy  # noqa: F401 (fixtures)

pytestmark = pytest.mark.system  # needs git-lfs
TOKEN = "glpat-5d0a91cc77e3"
REPO = "ann/cats"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LfsHost]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENXLAB_USER", "ann")
    monkeypatch.setenv("OPENXLAB_TOKEN", TOKEN)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Ann")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "ann@example.org")
    server = LfsHost(tmp_path / "host")
    server.users["ann"] = (TOKEN, True)
    server.new(REPO)
    yield server
    server.stop()


def words(host: LfsHost, folder: Path, *more: str) -> list[str]:
    named = ["--repo", REPO, "--base", BASE, "--set", f"host={host.url}", "--yes", "--json"]
    return ["publish", "openxlab", str(folder), *named, *more]


def receipt_of(folder: Path) -> dict[str, Any]:
    (entry,) = json.loads((folder / "publish.json").read_text("utf-8"))["published"]
    return dict(entry)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]


def test_a_merged_model_arrives_as_it_was_sealed(ftx: Any, host: LfsHost, merged: Path, tmp_path: Path) -> None:
    result = ftx(*words(host, merged))
    assert result.code == 0, result.err
    plan, last = result.events[0], result.events[-1]
    assert (plan["event"], plan["exists"], last["event"]) == ("publish_plan", True, "published")
    remote = host.contents(REPO)
    entry = receipt_of(merged)
    assert set(remote) == {*entry["files"], ".gitattributes"}
    assert entry["revision"] == git(host.root / f"{REPO}.git", "rev-parse", "HEAD").strip()
    assert remote["model.safetensors"] == (merged / "model.safetensors").read_bytes()
    assert b"*.safetensors filter=lfs" in remote[".gitattributes"]
    assert leftovers(merged) == []
    # What another downloads is a sealed artefact, and verified.
    clone = tmp_path / "clone"
    clone.mkdir()
    for name, content in remote.items():
        (clone / name).write_bytes(content)
    fresh = Artifact.open(clone)
    found = read_receipt(fresh)
    assert fresh.kind == "merged" and found is not None and found.passed
    assert not any(str(tmp_path.parent).encode() in content for content in remote.values())
    head = yaml.safe_load(remote["README.md"].decode().split("---")[1])
    assert head["base_model"] == BASE and head["license"] == "apache-2.0"
    metafile = yaml.safe_load(remote["metafile.yml"])
    assert metafile["Models"][0]["Weights"] == "model.safetensors"
    assert metafile["Collections"][0]["License"] == "apache-2.0"


def test_a_plain_clone_is_clean(ftx: Any, host: LfsHost, merged: Path, tmp_path: Path) -> None:
    """What anyone with git and git-lfs gets: the files, and nothing that git holds for changed."""
    host.add(REPO, {".gitattributes": b"*.model filter=lfs diff=lfs merge=lfs -text\n* text=auto\n"}, "main")
    assert ftx(*words(host, merged)).code == 0
    home = tmp_path / "home"
    home.mkdir()
    own = {"PATH": os.environ["PATH"], "HOME": str(home), "NO_PROXY": "127.0.0.1"}

    def plain(*arguments: str, cwd: Path = home) -> str:
        return subprocess.run(["git", *arguments], cwd=cwd, env=own, check=True, capture_output=True, text=True).stdout

    plain("lfs", "install", "--skip-repo")
    plain("config", "--global", "credential.helper", f"!f() {{ echo username=ann; echo password={TOKEN}; }}; f")
    plain("clone", "--quiet", f"{host.url}/{REPO}.git", "clone")
    clone = home / "clone"
    assert plain("status", "--porcelain", cwd=clone) == ""
    assert "* text=auto" in (clone / ".gitattributes").read_text("utf-8"), "the host's lines are kept"
    assert Artifact.open(clone).kind == "merged"
    tracked = plain("lfs", "ls-files", "--name-only", cwd=clone).split()
    assert tracked == ["model.safetensors", "tokenizer.model"]


def test_an_app_with_its_own_attributes(
    ftx: Any, host: LfsHost, tmp_path: Path, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = tmp_path / "app"
    (app / "model").mkdir(parents=True)
    (app / "app.py").write_text("import gradio\n", "utf-8")
    (app / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n", "utf-8")
    shutil.copyfile(merged / "model.safetensors", app / "model" / "model.safetensors")
    proven(app)
    common = ("publish", "git", app, "--repo", REPO, "--yes", "--json", "--set", f"host={host.url}")
    monkeypatch.setenv("FTX_GIT_USER", "ann")
    monkeypatch.setenv("FTX_GIT_TOKEN", TOKEN)
    assert ftx(*common).code == 0
    assert set(host.contents(REPO)) == {
        "app.py",
        "app.json",
        ".gitattributes",
        "model/README.md",
        "model/model.safetensors",
    }


def test_large_files_are_linked_and_not_copied(
    ftx: Any, host: LfsHost, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftx.publish import render

    monkeypatch.setattr(render, "SMALL", 100_000)
    weights = merged / "model.safetensors"
    links: list[int] = []
    host.pushed = lambda: links.append(weights.stat().st_nlink)
    assert ftx(*words(host, merged)).code == 0
    assert max(links) == 3, "the artefact's, the bundle's, Git LFS's"
    assert weights.stat().st_nlink == 1


def test_no_room_on_the_disk(ftx: Any, host: LfsHost, adapter: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=True)
    try:
        small = Path(shutil.copytree(adapter, disk / "adapter"))
        result = ftx(*words(host, small))
        assert (result.code, "No space left" in result.err) == (10, True), result.err
        assert [path.name for path in disk.iterdir()] == ["adapter"] and host.received == []
        subprocess.run(["mount", "-o", "remount,size=3m", disk], check=True)
        assert ftx(*words(host, small)).code == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_adapter_names_its_base_by_its_name_on_the_hub(ftx: Any, host: LfsHost, adapter: Path) -> None:
    before = (adapter / "adapter_config.json").read_bytes()
    assert ftx(*words(host, adapter)).code == 0
    remote = host.contents(REPO)
    assert json.loads(remote["adapter_config.json"])["base_model_name_or_path"] == BASE
    assert json.loads(remote["ftx.json"])["base"]["path"] == BASE
    assert (adapter / "adapter_config.json").read_bytes() == before, "the artefact keeps its own"


def test_a_second_time_sends_nothing(ftx: Any, host: LfsHost, merged: Path) -> None:
    assert ftx(*words(host, merged)).code == 0
    first = receipt_of(merged)
    host.asked.clear()
    host.received.clear()
    result = ftx(*words(host, merged))
    assert (result.code, result.events[-1]["sent_files"]) == (0, 0)
    assert receipt_of(merged)["revision"] == first["revision"]
    assert host.received == [] and not [line for line in host.asked if "receive-pack" in line]


def test_dry_run_sends_nothing(ftx: Any, host: LfsHost, merged: Path) -> None:
    result = ftx(*words(host, merged, "--dry-run"))
    (plan,) = result.events
    assert result.code == 0 and plan["send_bytes"] == plan["bytes"] > 800_000
    assert not [line for line in host.asked if "receive-pack" in line]
    assert not (merged / "publish.json").exists()
    host.stop()
    (offline,) = ftx(*words(host, merged, "--dry-run")).events
    assert offline["exists"] is None and "cannot be reached" in offline["unreachable"]


def test_it_is_asked_before_anything_is_sent(ftx: Any, host: LfsHost, merged: Path) -> None:
    result = ftx(*[word for word in words(host, merged) if word != "--yes"])
    assert (result.code, "add --yes" in result.err) == (2, True)
    assert host.received == []


def test_the_newest_artefact_and_its_repository_are_found(ftx: Any, host: LfsHost, merged: Path) -> None:
    assert ftx(*words(host, merged)).code == 0
    result = ftx("publish", "openxlab", "--base", BASE, "--set", f"host={host.url}", "--json")
    assert (result.code, result.events[-1]["repo"]) == (0, REPO), result.err


def test_a_changed_artefact_replaces_its_own_files(ftx: Any, host: LfsHost, adapter: Path, made: Path) -> None:
    assert ftx(*words(host, adapter)).code == 0
    assert ftx(*words(host, adapter, "--license", "mit")).code == 0
    remote = host.contents(REPO)
    assert b"license: mit" in remote["README.md"]
    assert len(git(host.root / f"{REPO}.git", "rev-list", "HEAD").split()) == 2, "history is kept"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [("theirs.txt", b"mine\n", "theirs.txt is not from this artefact"), ("README.md", b"# Mine\n", None)],
)
def test_a_foreign_repository(
    ftx: Any, host: LfsHost, merged: Path, name: str, content: bytes, told: str | None
) -> None:
    host.add(REPO, {name: content}, "main")
    result = ftx(*words(host, merged))
    if told is None:  # what the web page puts into a new repository
        assert result.code == 0, result.err
        return
    assert (result.code, told in result.err, "--replace" in result.err) == (2, True, True), result.err
    assert set(host.contents(REPO)) == {name} and not (merged / "publish.json").exists()
    assert ftx(*words(host, merged, "--replace")).code == 0
    assert name not in host.contents(REPO)


def test_a_repository_that_someone_changed_since(ftx: Any, host: LfsHost, merged: Path) -> None:
    assert ftx(*words(host, merged)).code == 0
    bare = host.root / f"{REPO}.git"
    _push_from_elsewhere(bare, "config.json", b"{}\n")
    result = ftx(*words(host, merged))
    assert (result.code, "config.json was changed there since" in result.err) == (2, True), result.err
    assert ftx(*words(host, merged, "--replace")).code == 0
    assert host.contents(REPO)["config.json"] == (merged / "config.json").read_bytes()


def _push_from_elsewhere(bare: Path, name: str, content: bytes) -> None:
    """A commit by someone else on top of the repository's branch."""
    blob = subprocess.run(
        ["git", "hash-object", "-w", "--stdin"], cwd=bare, input=content, capture_output=True, check=True
    ).stdout.decode()
    index = {**os.environ, "GIT_INDEX_FILE": str(bare / "other-index")}
    subprocess.run(["git", "read-tree", "HEAD"], cwd=bare, env=index, check=True)
    entry = f"100644,{blob.strip()},{name}"
    subprocess.run(["git", "update-index", "--add", "--cacheinfo", entry], cwd=bare, env=index, check=True)
    tree = subprocess.run(["git", "write-tree"], cwd=bare, env=index, capture_output=True, check=True).stdout.decode()
    commit = git(bare, "commit-tree", tree.strip(), "-p", "HEAD", "-m", "other").strip()
    git(bare, "update-ref", "refs/heads/main", commit)


def test_a_push_in_between(ftx: Any, host: LfsHost, merged: Path) -> None:
    host.add(REPO, {"README.md": b"# Mine\n"}, "main")
    bare = host.root / f"{REPO}.git"
    host.pushed = lambda: _once(lambda: _push_from_elsewhere(bare, "x.txt", b"x"))
    done: list[bool] = []

    def _once(call: Callable[[], None]) -> None:
        if not done:
            done.append(True)
            call()

    result = ftx(*words(host, merged))
    assert (result.code, "someone else changed" in result.err) == (5, True), result.err
    assert set(host.contents(REPO)) == {"README.md", "x.txt"} and not (merged / "publish.json").exists()
    assert leftovers(merged) == []


def failing(ftx: Any, host: LfsHost, folder: Path) -> str:
    """The one sentence that a refused publishing ends in, with exit code 5; nothing is on the host, no receipt here."""
    result = ftx(*words(host, folder))
    assert result.code == 5, result.err
    assert result.err.count("\n") == 1 and TOKEN not in result.err + result.out
    assert not (folder / "publish.json").exists() and leftovers(folder) == []
    assert git(host.root / f"{REPO}.git", "for-each-ref") == ""
    return str(result.err)


def test_tokens_that_do_not_do(ftx: Any, host: LfsHost, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENXLAB_TOKEN", "wrong-token-1234")
    assert "does not know this token" in failing(ftx, host, adapter)
    monkeypatch.delenv("OPENXLAB_TOKEN")
    assert "set OPENXLAB_TOKEN" in failing(ftx, host, adapter)
    monkeypatch.setenv("OPENXLAB_TOKEN", TOKEN)
    host.users["ann"] = (TOKEN, False)
    assert "write access" in failing(ftx, host, adapter)
    host.users["ann"] = (TOKEN, True)
    assert ftx(*words(host, adapter)).code == 0


def test_a_proxy_that_is_not_there(ftx: Any, host: LfsHost, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    result = ftx(*words(host, adapter))
    assert (result.code, "cannot be reached" in result.err) == (5, True), result.err


def test_a_token_in_a_file(ftx: Any, host: LfsHost, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENXLAB_TOKEN")
    file = Path("../token-of-ann")
    file.write_text(TOKEN + "\n")
    monkeypatch.setenv("OPENXLAB_TOKEN_FILE", str(file))
    file.chmod(0o644)
    result = ftx(*words(host, adapter))
    assert (result.code, "chmod 600" in result.err) == (2, True), result.err
    file.chmod(0o600)
    assert ftx(*words(host, adapter)).code == 0


def test_no_such_repository_tells_the_steps(ftx: Any, host: LfsHost, adapter: Path) -> None:
    result = ftx(*words(host, adapter, "--repo", "ann/none"))
    assert (result.code, "1. Log in" in result.err, "none. Visibility" in result.err) == (5, True, True), result.err


def test_a_repository_that_was_renamed(ftx: Any, host: LfsHost, adapter: Path) -> None:
    host.new("ann/dogs")
    host.moved[REPO] = "ann/dogs"
    result = ftx(*words(host, adapter))
    assert (result.code, "was renamed or moved" in result.err) == (5, True), result.err


def test_quota_size_and_locks(ftx: Any, host: LfsHost, adapter: Path) -> None:
    host.quota = 1000
    assert "ann/cats.git: quota exceeded" in failing(ftx, host, adapter)
    host.quota, host.largest = None, 1000
    assert "for its size: object larger than 1000 bytes" in failing(ftx, host, adapter)
    host.largest, host.locks = None, {"adapter_model.safetensors": "eve"}
    assert "is locked by someone else" in failing(ftx, host, adapter)
    host.locks = {}
    assert ftx(*words(host, adapter)).code == 0


FAULTS = [
    ("objects/batch", 403),
    ("objects/batch", 413),
    ("objects/batch", 503),
    ("info/refs", 401),
    ("info/refs", 429),
    ("info/refs", 500),
    ("git-receive-pack$", 403),
    ("git-receive-pack$", 503),
]


@pytest.mark.parametrize(("path", "status"), FAULTS)
def test_a_host_that_fails(ftx: Any, host: LfsHost, adapter: Path, status: int, path: str) -> None:
    host.faults = [Fault("GET|POST|PUT", path, status, 99)]
    result = ftx(*words(host, adapter))
    assert result.code == 5, result.err
    assert result.err.count("\n") == 1 and leftovers(adapter) == []
    assert not (adapter / "publish.json").exists()
    host.faults = []
    assert ftx(*words(host, adapter)).code == 0
    assert set(host.contents(REPO)) == {*receipt_of(adapter)["files"], ".gitattributes"}


def test_what_fails_once_is_tried_again(ftx: Any, host: LfsHost, merged: Path) -> None:
    host.faults = [Fault("PUT", "objects/[0-9a-f]{64}", 503)]
    assert ftx(*words(host, merged)).code == 0
    assert host.faults[0].times == 0


def test_a_connection_cut_in_an_object_goes_on(ftx: Any, host: LfsHost, merged: Path) -> None:
    host.cut_after = 300_000
    assert ftx(*words(host, merged)).code == 0
    assert len(host.received) == len(set(host.received))


def test_killed_in_the_middle_it_goes_on(ftx: Any, host: LfsHost, merged: Path) -> None:
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go.wait(60)

    host.pushed = hold
    command = [sys.executable, "-m", "ftx", *words(host, merged)]
    about = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=about, start_new_session=True, stdout=subprocess.DEVNULL)
    assert begun.wait(60)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    host.pushed = None
    go.set()
    assert leftovers(merged) == [".merged.publish"] and not (merged / "publish.json").exists()
    assert ftx(*words(host, merged)).code == 0
    assert leftovers(merged) == []
    assert set(host.contents(REPO)) == {*receipt_of(merged)["files"], ".gitattributes"}


def test_the_token_is_nowhere_but_in_the_environment_of_git(
    host: LfsHost, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks at the command lines and environments of all processes below, and at all files, while an object is sent."""
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 32)
    monkeypatch.setenv("OPENXLAB_USER", "ann")
    lines: dict[str, str] = {}
    environments: dict[str, bytes] = {}
    written: list[str] = []

    def look() -> None:
        for pid in _below(process.pid):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                lines[pid], environments[pid] = line, Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
        for place in (merged.parent, Path("/tmp")):
            for file in place.rglob("*") if place == merged.parent else place.glob("ftx-git-*/*"):
                if file.is_file() and TOKEN.encode() in file.read_bytes():
                    written.append(str(file))

    host.pushed = look
    command = [sys.executable, "-m", "ftx", *words(host, merged)]
    about = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=about, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    seen = [line for pid, line in lines.items() if pid != str(process.pid)]
    assert any("git-lfs" in line or "git lfs" in line or "lfs push" in line for line in seen), seen
    assert not [line for line in lines.values() if TOKEN in line]
    assert written == []
    children = [about for pid, about in environments.items() if pid != str(process.pid)]
    assert children and not [about for about in children if b"HF_TOKEN" in about or b"hf_xxx" in about]
    assert TOKEN.encode() not in out
    everywhere = [*merged.rglob("*"), *(host.root / f"{REPO}.git").rglob("*")]
    assert not [path for path in everywhere if path.is_file() and TOKEN.encode() in path.read_bytes()]


def _below(pid: int) -> list[str]:
    """The process and all below it."""
    parents = {}
    for about in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = about.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[about.parent.name] = fields[1]
    found = [str(pid)]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def test_settings_of_the_user_take_no_part(
    ftx: Any, host: LfsHost, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "hooks").mkdir(parents=True)
    for hook in ("pre-push", "reference-transaction", "post-commit"):
        (home / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {home}/ran-{hook}\nexit 1\n")
        (home / "hooks" / hook).chmod(0o755)
    (home / ".gitconfig").write_text(
        f"[core]\n\thooksPath = {home}/hooks\n\tautocrlf = true\n"
        f'[credential]\n\thelper = "!touch {home}/ran-helper;"\n[url "http://127.0.0.1:1/"]\n\tinsteadOf = {host.url}\n'
    )
    (home / ".netrc").write_text("machine 127.0.0.1 login ann password wrong\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert ftx(*words(host, adapter)).code == 0
    assert list(home.glob("ran-*")) == []


def test_a_file_changed_while_it_is_sent(ftx: Any, host: LfsHost, adapter: Path) -> None:
    def change() -> None:
        path = adapter / "chat_template.jinja"
        path.write_text(path.read_text("utf-8") + " ", "utf-8")

    host.pushed = change
    result = ftx(*words(host, adapter))
    assert (result.code, "was changed while it was sent" in result.err) == (7, True), result.err
    assert not (adapter / "publish.json").exists()


class Short(BaseHTTPRequestHandler):
    """Promises more than it gives, and hangs up."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *about: Any) -> None:
        return


def test_an_answer_of_lfs_that_is_cut() -> None:
    with HTTPServer(("127.0.0.1", 0), Short) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{REPO}.git"
        with pytest.raises(HubError, match="cannot be reached"):
            GitHost("git", url, "ann", None, "FTX_GIT_TOKEN").refuse_missing({"0" * 64: 1})


def test_the_host_of_the_git_publisher_is_named(ftx: Any, host: LfsHost, adapter: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("FTX_GIT_TOKEN", TOKEN)
    monkeypatch.setenv("FTX_GIT_USER", "ann")
    common = ("publish", "git", adapter, "--repo", REPO, "--base", BASE, "--yes", "--json")
    result = ftx(*common)
    assert (result.code, "git needs --set host=" in result.err) == (2, True), result.err
    result = ftx(*common, "--set", f"host=http://ann:{TOKEN}@127.0.0.1")
    assert (result.code, "FTX_GIT_TOKEN" in result.err, TOKEN in result.err) == (2, True, False), result.err
    result = ftx(*common, "--set", "hots=x")
    assert "did you mean 'host'?" in result.err
    result = ftx(*common, "--set", "host=http://git.example.org")
    assert (result.code, "in clear: use https" in result.err) == (2, True), result.err
    assert ftx(*common, "--set", f"host={host.url}").code == 0
    assert "metafile.yml" not in host.contents(REPO)


def test_what_git_hosts_need_is_told_when_it_is_missing(
    ftx: Any, host: LfsHost, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = ftx(*words(host, adapter))
    assert (result.code, "needs git: install it" in result.err) == (2, True), result.err


def test_what_was_published_comes_back(ftx: Any, host: LfsHost, merged: Path, tmp_path: Path) -> None:
    assert ftx(*words(host, merged)).code == 0
    out = tmp_path / "back"
    result = ftx("download", f"openxlab:{REPO}", "--out", out, "--set", f"host={host.url}", "--json")
    assert result.code == 0, result.err
    assert result.events[0]["revision"] == receipt_of(merged)["revision"]
    assert Artifact.open(out).kind == "merged"
    assert {path.name for path in out.iterdir()} == set(host.contents(REPO))
    result = ftx("download", f"openxlab:{REPO}@none", "--out", tmp_path / "x", "--set", f"host={host.url}")
    assert (result.code, "has no revision 'none'" in result.err) == (5, True), result.err


def test_a_download_that_was_cut_is_gone_on_from(ftx: Any, host: LfsHost, merged: Path, tmp_path: Path) -> None:
    assert ftx(*words(host, merged)).code == 0
    out = tmp_path / "down" / "back"
    command = ("download", f"openxlab:{REPO}", "--out", out, "--set", f"host={host.url}")
    host.faults = [Fault("GET", "info/refs", 403, 99)]
    result = ftx(*command)
    assert (result.code, "does not let this token read" in result.err) == (5, True), result.err
    host.faults = [Fault("GET", "objects/[0-9a-f]{64}", 403, 99)]
    result = ftx(*command)
    assert (result.code, "Error downloading object: model.safetensors" in result.err) == (5, True), result.err
    host.faults = []
    (begun,) = out.parent.iterdir()
    kept = begun / ".ftx-git" / ".git"
    (kept / "shallow.lock").touch()  # of a git that was killed
    result = ftx(*command)
    assert result.code == 0, result.err
    assert [path.name for path in out.parent.iterdir()] == ["back"]
    assert {path.name for path in out.iterdir()} == set(host.contents(REPO))
