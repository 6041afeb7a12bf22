"""Tokens: where they are read from, what is kept of them, who the hubs say one is, and that they are told nowhere."""
# ruff: noqa: F811 (fixtures of other modules)

from __future__ import annotations

import base64
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftx.publish import logins
from ftx.publish.credentials import credential, token
from ftx.redaction import guard, remember, scrub
from hub_servers import TOKEN
from lfs_server import LfsHost
from published import BASE, adapter_copy, made_once  # noqa: F401 (fixtures)
from test_publish_hubs import REPO, Place, place  # noqa: F401 (a fixture)

OTHER = "tok-9b27-another"


def piped(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


class Ring:
    """A keyring in memory, which takes the place of the desktop's."""

    priority = 5.0

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], str] = {}

    def set_password(self, service: str, name: str, password: str) -> None:
        self.held[service, name] = password

    def get_password(self, service: str, name: str) -> str | None:
        return self.held.get((service, name))

    def delete_password(self, service: str, name: str) -> None:
        from keyring.errors import PasswordDeleteError

        if self.held.pop((service, name), None) is None:
            raise PasswordDeleteError("not there")


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Ring:
    keyring = pytest.importorskip("keyring")
    made = Ring()
    monkeypatch.setattr(keyring.core, "_keyring_backend", made)
    return made


@pytest.fixture
def no_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a desktop: keyring's own stand-in for none."""
    keyring = pytest.importorskip("keyring")
    from keyring.backends.fail import Keyring

    monkeypatch.setattr(keyring.core, "_keyring_backend", Keyring())


class TestFiles:
    def test_the_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        place = "https://hub.example.org"
        assert credential("HF_TOKEN", place) is None
        logins.save(place, "huggingface", "ann", "tok-of-the-login", "file")
        found = credential("HF_TOKEN", f"{place.upper()}/")
        assert found is not None
        assert (found.token, found.user, found.source) == ("tok-of-the-login", "ann", "ftx login (file)")
        assert "tok-of" not in repr(found)
        file = tmp_path / "hf"
        file.write_text("tok-of-the-file\n", "utf-8")
        file.chmod(0o600)
        monkeypatch.setenv("HF_TOKEN_FILE", str(file))
        assert token("HF_TOKEN", place) == "tok-of-the-file"
        monkeypatch.setenv("HF_TOKEN", " tok-of-the-variable ")
        assert token("HF_TOKEN", place) == "tok-of-the-variable"
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.delenv("HF_TOKEN_FILE")
        assert token("HF_TOKEN", "https://mirror.example.org") is None, "a login is for its address alone"

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o644])
    def test_files_that_others_may_read(
        self, ftx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
    ) -> None:
        file = tmp_path / "token-file"
        file.write_text(TOKEN, "utf-8")
        file.chmod(mode)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("HF_TOKEN_FILE", str(file))
        result = ftx("whoami", "huggingface")
        assert result.code == 2 and result.err.count("\n") == 1
        assert f"run: chmod 600 {file}" in result.err and TOKEN not in result.err

    def test_files_that_are_none(self, ftx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe, 0o600)
        raw = tmp_path / "raw"
        raw.write_bytes(b"\xff\xfe")
        raw.chmod(0o600)
        for path, said in ((tmp_path / "none", "cannot be read"), (tmp_path, "cannot be read"), (pipe, "is no file")):
            monkeypatch.setenv("HF_TOKEN_FILE", str(path))
            result = ftx("whoami", "huggingface")
            assert (result.code, said in result.err) == (2, True), result.err
        monkeypatch.setenv("HF_TOKEN_FILE", str(raw))
        assert "holds no text" in ftx("whoami", "huggingface").err

    @pytest.mark.system  # root, to give a file away
    def test_someone_elses_file(self, ftx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "theirs"
        file.write_text(TOKEN, "utf-8")
        file.chmod(0o600)
        os.chown(file, 4711, 4711)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("HF_TOKEN_FILE", str(file))
        result = ftx("whoami", "huggingface")
        assert (result.code, "belongs to another user" in result.err, "chmod 600" in result.err) == (2, True, True)

    def test_the_logins_file_is_ours_alone(self, ftx: Any) -> None:
        old = os.umask(0)
        try:
            logins.save("https://a.example.org", "git", "ann", TOKEN, "file")
        finally:
            os.umask(old)
        file = logins.logins_file()
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert sorted(one.name for one in file.parent.iterdir()) == [".logins.lock", "logins.json"]
        file.chmod(0o644)
        result = ftx("whoami")
        assert (result.code, f"chmod 600 {file}" in result.err) == (2, True), result.err
        file.chmod(0o600)
        file.write_text(f'{{"logins": ["{TOKEN}"]}}', "utf-8")
        result = ftx("whoami")
        assert (result.code, "is no list of logins" in result.err, TOKEN in result.err) == (2, True, False)

    def test_a_config_folder_that_cannot_be(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x", "utf-8")
        monkeypatch.setenv("FTX_CONFIG", str(tmp_path / "file" / "ftx"))
        from ftx.errors import StorageError

        with pytest.raises(StorageError, match="name another with FTX_CONFIG"):
            logins.save("https://a.example.org", "git", "ann", TOKEN, "file")


def test_whoami_without_a_hubs_client(ftx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    result = ftx("whoami", "modelscope")
    assert (result.code, "there is no token for ModelScope" in result.err) == (5, True), result.err


class TestLogin:
    @pytest.fixture(autouse=True)
    def _no_token(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(place.token)

    def test_in_and_out(
        self, ftx: Any, place: Place, adapter: Path, monkeypatch: pytest.MonkeyPatch, no_ring: None
    ) -> None:
        result = ftx("whoami", place.publisher)
        assert (result.code, f"run ftx login {place.publisher}" in result.err) == (5, True), result.err
        piped(monkeypatch, TOKEN + "\n")
        result = ftx("login", place.publisher, "--token-stdin", "--json")
        assert result.code == 0, result.err
        (event,) = result.events
        assert (event["user"], event["writes"], event["store"]) == ("ann", True, "file")
        assert event["scopes"] == ["write"] and event["place"] == place.server.url
        held = json.loads(logins.logins_file().read_text("utf-8"))["logins"]
        assert held[place.server.url]["token"] == TOKEN
        (event,) = ftx("whoami", "--json").events
        assert (event["user"], event["source"]) == ("ann", "ftx login (file)")
        assert ftx(*place.words(adapter)).code == 0, "publishing reads it too"
        (event,) = ftx("logout", place.publisher, "--json").events
        assert (event["place"], event["left"]) == (place.server.url, None)
        assert TOKEN not in logins.logins_file().read_text("utf-8")
        assert f"set {place.token}" in ftx(*place.words(adapter)).err
        result = ftx("logout", place.publisher)
        assert (result.code, "there is no login at" in result.err) == (2, True), result.err

    def test_data_sets_read_it_too(self, place: Place) -> None:
        from ftx_sources import huggingface, modelscope

        logins.save(place.server.url, place.publisher, "ann", TOKEN, "file")
        used = {"huggingface": huggingface.token_of_user, "modelscope": lambda: modelscope._client().legacy.token}
        assert used[place.publisher]() == TOKEN

    def test_one_that_cannot_be_read_hides_no_other(
        self, ftx: Any, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv(place.token, TOKEN)
        monkeypatch.setenv("OPENXLAB_TOKEN_FILE", str(tmp_path / "none"))
        result = ftx("whoami", "--json")
        assert result.code == 5 and "OPENXLAB_TOKEN_FILE" in result.err, result.err
        assert [event["user"] for event in result.events if event["event"] == "whoami"] == ["ann"]

    def test_people_are_told_in_words(
        self, ftx: Any, place: Place, monkeypatch: pytest.MonkeyPatch, no_ring: None
    ) -> None:
        piped(monkeypatch, TOKEN)
        said = " ".join(ftx("login", place.publisher, "--token-stdin").err.split())
        assert "ann, may publish (write)" in said and "as there is no keyring to use" in said
        monkeypatch.setenv(place.token, TOKEN)
        assert f"token of {place.token}" in " ".join(ftx("whoami", place.publisher).err.split())
        said = " ".join(ftx("logout", place.publisher).err.split())
        assert f"there is still one: of {place.token}" in said

    def test_a_wrong_token_is_not_kept(self, ftx: Any, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        piped(monkeypatch, OTHER)
        result = ftx("login", place.publisher, "--token-stdin", "--store", "file")
        assert result.code == 5 and result.err.count("\n") == 1, result.err
        assert "does not know this token" in result.err, result.err
        assert "nothing was stored" in result.err and OTHER not in result.err + result.out
        assert not logins.logins_file().exists()
        monkeypatch.setenv(place.token, OTHER)
        result = ftx("whoami", place.publisher)
        assert result.code == 5 and "does not know this token" in result.err, result.err
        assert f"(token of {place.token})" in result.err and OTHER not in result.err
        assert ftx("whoami").code == 5

    def test_a_token_that_only_reads(
        self, ftx: Any, place: Place, adapter: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place.server.writes = False
        piped(monkeypatch, TOKEN)
        result = ftx("login", place.publisher, "--token-stdin", "--store", "file", "--json")
        (event,) = result.events
        assert (event["writes"], event["scopes"]) == (False, ["read"])
        assert "read-only: it downloads and does not publish" in " ".join(ftx("whoami").err.split())
        result = ftx(*place.words(adapter))
        assert (result.code, "may not write" in result.err) == (5, True), result.err

    @pytest.mark.parametrize("place", ["huggingface"], indirect=True)
    def test_a_login_is_for_its_address_alone(
        self, ftx: Any, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A mirror that HF_ENDPOINT names is not told the token of the hub itself."""
        logins.save("https://huggingface.co", "huggingface", "ann", TOKEN, "file")
        place.server.add(REPO, {"config.json": b"{}"}, place.branch)
        assert ftx("download", f"huggingface:{REPO}", "--out", tmp_path / "out").code == 0
        assert place.server.heads and not [head for head in place.server.heads if TOKEN in head]
        assert ftx("whoami", "huggingface").code == 5
        piped(monkeypatch, TOKEN)
        assert ftx("login", "huggingface", "--token-stdin", "--store", "file").code == 0
        assert {one.place for one in logins.all_logins()} == {"https://huggingface.co", place.server.url}

    @pytest.mark.parametrize("place", ["huggingface"], indirect=True)
    def test_a_fine_grained_token(self, ftx: Any, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(place.token, TOKEN)
        for scopes, writes in ((["repo.content.read"], False), (["repo.write", "repo.content.read"], True)):
            place.server.scopes = scopes
            (event,) = ftx("whoami", "huggingface", "--json").events
            assert (event["scopes"], event["writes"]) == (sorted(scopes), writes)

    def test_no_network(self, ftx: Any, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        place.server.stop()
        piped(monkeypatch, TOKEN)
        result = ftx("login", place.publisher, "--token-stdin")
        assert (result.code, "cannot be reached" in result.err) == (5, True), result.err
        assert not logins.logins_file().exists()

    def test_what_is_no_token(self, ftx: Any, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        for text, said in (
            ("", "is empty"),
            ("two words", "holds spaces"),
            ("short", "which none has"),
            ("密" * 9, ""),
        ):
            piped(monkeypatch, text)
            result = ftx("login", place.publisher, "--token-stdin")
            assert (result.code, said in result.err) == (2, True), result.err
            assert not text or text not in result.err
        piped(monkeypatch, TOKEN)
        assert "--token-stdin < FILE" in ftx("login", place.publisher).err
        assert place.server.asked == []

    def test_a_token_on_the_command_line(self, ftx: Any, place: Place) -> None:
        for words in ([TOKEN], ["--token", TOKEN], [f"--token={TOKEN}"]):
            result = ftx("login", place.publisher, *words)
            assert (result.code, "withdraw it" in result.err, TOKEN in result.err) == (2, True, False), result.err
        assert place.server.asked == []

    @pytest.mark.parametrize("place", ["huggingface"], indirect=True)
    def test_it_is_typed_unseen(self, place: Place, tmp_path: Path) -> None:
        """On a real terminal, which shows nothing of it."""
        about = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "0"}
        words = [sys.executable, "-m", "ftx", "login", "huggingface", "--store", "file"]
        process, terminal = pty.fork()
        if process == 0:
            os.execvpe(words[0], words, about)
        shown = b""
        while b"tokens):" not in shown:
            shown += os.read(terminal, 1024)
        os.write(terminal, TOKEN.encode() + b"\n")
        while part := _read(terminal):
            shown += part
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, shown
        assert TOKEN.encode() not in shown and b"ann" in shown
        assert logins.login_of(place.server.url) is not None

    def test_the_keyring(self, ftx: Any, place: Place, ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
        piped(monkeypatch, TOKEN)
        (event,) = ftx("login", place.publisher, "--token-stdin", "--json").events
        assert event["store"] == "keyring" and ring.held == {("ftx", place.server.url): TOKEN}
        assert TOKEN not in logins.logins_file().read_text("utf-8")
        (event,) = ftx("whoami", "--json").events
        assert event["source"] == "ftx login (keyring)"
        piped(monkeypatch, TOKEN)
        assert ftx("login", place.publisher, "--token-stdin", "--store", "file").code == 0
        assert ring.held == {}, "the older copy is gone"
        piped(monkeypatch, TOKEN)
        assert ftx("login", place.publisher, "--token-stdin", "--store", "keyring").code == 0
        assert TOKEN not in logins.logins_file().read_text("utf-8")
        assert ftx("logout", place.publisher).code == 0
        assert ring.held == {}

    def test_a_keyring_that_lost_it(self, ftx: Any, place: Place, ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
        piped(monkeypatch, TOKEN)
        assert ftx("login", place.publisher, "--token-stdin").code == 0
        ring.held.clear()
        result = ftx("whoami", place.publisher)
        assert (result.code, f"run: ftx login {place.publisher}" in result.err) == (5, True), result.err
        assert ftx("logout", place.publisher).code == 0

    @pytest.mark.parametrize("place", ["huggingface"], indirect=True)
    def test_a_keyring_that_is_gone(self, ftx: Any, place: Place, ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
        piped(monkeypatch, TOKEN)
        assert ftx("login", place.publisher, "--token-stdin").code == 0
        for name in ("keyring", "keyring.errors"):
            monkeypatch.setitem(sys.modules, name, None)
        result = ftx("logout", place.publisher)
        assert (result.code, "pip install 'ftx[keyring]'" in result.err) == (2, True), result.err
        piped(monkeypatch, TOKEN)
        assert ftx("login", place.publisher, "--token-stdin", "--store", "file").code == 0
        (event,) = ftx("whoami", "--json").events
        assert event["source"] == "ftx login (file)"

    def test_no_keyring(self, ftx: Any, place: Place, no_ring: None, monkeypatch: pytest.MonkeyPatch) -> None:
        piped(monkeypatch, TOKEN)
        result = ftx("login", place.publisher, "--token-stdin", "--store", "keyring")
        assert (result.code, "no keyring answers on this machine; leave --store out" in result.err) == (2, True)
        assert not logins.logins_file().exists()
        monkeypatch.setitem(sys.modules, "keyring", None)
        result = ftx("login", place.publisher, "--token-stdin", "--store", "keyring")
        assert (result.code, "pip install 'ftx[keyring]'" in result.err) == (2, True), result.err


@pytest.mark.system  # needs dbus and gnome-keyring
@pytest.mark.parametrize("place", ["huggingface"], indirect=True)
def test_a_real_keyring(place: Place, tmp_path: Path) -> None:
    """GNOME's, on a bus of its own: the token is in its file, encrypted, and in none of ours."""
    program = (
        "printf password | gnome-keyring-daemon --unlock --components=secrets >/dev/null && "
        f"printf {TOKEN} | {sys.executable} -m ftx login huggingface --token-stdin --store keyring --json && "
        f"{sys.executable} -m ftx whoami --json && {sys.executable} -m ftx logout huggingface --json"
    )
    about = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "DISPLAY")}
    about |= {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "0", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["dbus-run-session", "--", "sh", "-c", program], env=about, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    inside, who, out = (json.loads(line) for line in done.stdout.splitlines())
    assert (inside["store"], who["source"], out["left"]) == ("keyring", "ftx login (keyring)", None)
    assert TOKEN not in done.stdout + done.stderr
    assert not [one for one in tmp_path.rglob("*") if one.is_file() and TOKEN.encode() in one.read_bytes()]
    assert TOKEN not in logins.logins_file().read_text("utf-8")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1024)
    except OSError:  # the other end is closed
        return b""


@pytest.mark.system  # needs git-lfs
class TestGitHosts:
    @pytest.fixture
    def host(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LfsHost]:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for name in ("OPENXLAB_TOKEN", "OPENXLAB_USER", "FTX_GIT_TOKEN", "FTX_GIT_USER"):
            monkeypatch.delenv(name, raising=False)
        server = LfsHost(tmp_path / "host")
        server.users["ann"] = (TOKEN, True)
        yield server
        server.stop()

    def test_in_publish_and_out(
        self, ftx: Any, host: LfsHost, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        piped(monkeypatch, TOKEN)
        result = ftx("login", host.url, "--user", "ann", "--token-stdin", "--store", "file", "--json")
        assert result.code == 0, result.err
        (event,) = result.events
        assert (event["user"], event["scopes"], event["writes"]) == ("ann", None, None)
        host.new(REPO)
        words = [str(adapter), "--repo", REPO, "--base", BASE, "--yes", "--set", f"host={host.url}"]
        assert ftx("publish", "git", *words).code == 0
        (event,) = ftx("whoami", "--json").events
        assert (event["hub"], event["place"], event["user"]) == ("git", host.url, "ann")
        assert ftx("download", f"git:{REPO}", "--set", f"host={host.url}", "--out", tmp_path / "back").code == 0
        assert ftx("logout", host.url).code == 0
        assert ftx("whoami", host.url).code == 5

    def test_openxlab_by_name(self, ftx: Any, host: LfsHost, monkeypatch: pytest.MonkeyPatch) -> None:
        at = ["--set", f"host={host.url}"]
        piped(monkeypatch, TOKEN)
        result = ftx("login", "openxlab", "--token-stdin", *at)
        assert (result.code, "--user: say your name" in result.err) == (2, True), result.err
        piped(monkeypatch, TOKEN)
        assert ftx("login", "openxlab", "--user", "ann", "--token-stdin", "--store", "file", *at).code == 0
        (event,) = ftx("whoami", "openxlab", "--json", *at).events
        assert (event["user"], event["source"]) == ("ann", "ftx login (file)")

    def test_data_sets_read_it_too(self, host: LfsHost) -> None:
        from ftx_sources.openxlab import OpenXLab

        host.add("ann/rows", {"rows.jsonl": b'{"messages": []}\n'}, "main")
        logins.save(host.url, "openxlab", "ann", TOKEN, "file")
        (record,) = OpenXLab(repo="ann/rows", host=host.url).records()
        assert record.value == {"messages": []}

    def test_a_repository_tells_whether_it_may_write(
        self, ftx: Any, host: LfsHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bare = host.new(REPO)
        words = ["login", host.url, "--user", "ann", "--token-stdin", "--store", "file", "--repo", REPO, "--json"]
        piped(monkeypatch, TOKEN)
        assert ftx(*words).events[0]["writes"] is True
        host.users["ann"] = (TOKEN, False)
        piped(monkeypatch, TOKEN)
        assert ftx(*words).events[0]["writes"] is False
        assert list((bare / "refs" / "heads").iterdir()) == [], "nothing was sent"

    def test_a_wrong_token(self, ftx: Any, host: LfsHost, monkeypatch: pytest.MonkeyPatch) -> None:
        piped(monkeypatch, OTHER)
        result = ftx("login", host.url, "--user", "ann", "--token-stdin", "--store", "file")
        assert (result.code, "does not know this token" in result.err) == (5, True), result.err
        assert not logins.logins_file().exists() and OTHER not in result.err

    def test_a_host_that_looks_at_no_token_before_the_repository(
        self, ftx: Any, host: LfsHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lfs_server import Fault

        host.faults = [Fault("GET", "info/refs", 404, 99)]
        piped(monkeypatch, TOKEN)
        result = ftx("login", host.url, "--user", "ann", "--token-stdin")
        assert (result.code, "--repo OWNER/NAME" in result.err) == (5, True), result.err
        logins.save(host.url, "git", "ann", TOKEN, "file")
        result = ftx("whoami", host.url)
        assert (result.code, "--repo OWNER/NAME" in result.err) == (5, True), result.err
        result = ftx("whoami", "--json")
        assert (result.code, [event["event"] for event in result.events]) == (0, ["not_asked"]), result.err
        assert "not asked; " in " ".join(ftx("whoami").err.split())
        assert ftx("whoami", "--repo", REPO).code == 2
        host.faults = []
        host.new(REPO)
        (event,) = ftx("whoami", host.url, "--repo", REPO, "--json").events
        assert (event["user"], event["writes"]) == ("ann", True)

    def test_a_variables_token_goes_to_no_host_that_was_logged_in_to(
        self, ftx: Any, host: LfsHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logins.save(host.url, "git", "ann", TOKEN, "file")
        monkeypatch.setenv("FTX_GIT_TOKEN", OTHER)
        (event,) = ftx("whoami", "--json").events
        assert (event["user"], event["source"]) == ("ann", "ftx login (file)")
        sent = re.findall(r"Basic (\S+)", "\n".join(host.heads))
        assert sent and not [one for one in sent if OTHER in base64.b64decode(one).decode()]

    def test_not_in_clear(self, ftx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        piped(monkeypatch, TOKEN)
        result = ftx("login", "http://git.example.org", "--user", "ann", "--token-stdin")
        assert (result.code, "in clear: use https" in result.err) == (2, True), result.err
        result = ftx("login", f"https://ann:{TOKEN}@git.example.org", "--token-stdin")
        assert (result.code, TOKEN in result.err) == (2, False), result.err


class TestRedaction:
    def test_a_secret_of_digits_leaves_json_whole(self, capsys: pytest.CaptureFixture[str]) -> None:
        from ftx.console import Console

        remember("12345678")
        remember("e")
        Console(json_lines=True).event({"event": "x", "count": 12345678, "says": ["it is 12345678"]})
        assert json.loads(capsys.readouterr().out) == {"event": "x", "count": 12345678, "says": ["it is ***"]}

    def test_all_forms(self, monkeypatch: pytest.MonkeyPatch) -> None:
        secret = 'tok"n/+ü-6e1f-secret'
        remember(secret)
        for user in ("ann", "bo", "a"):
            basic = base64.b64encode(f"{user}:{secret}".encode()).decode()
            hidden = scrub(f"Authorization: Basic {basic}")
            kept = base64.b64encode(f"{user}:".encode()).decode()[:2]
            assert len(hidden) < 40 and basic[8:-8] not in hidden and kept in hidden, hidden
        said = scrub(f"{secret} {json.dumps(secret)} https://x?t=tok%22n%2F%2B%C3%BC-6e1f-secret")
        assert said == '*** "***" https://x?t=***'
        monkeypatch.setenv("SOME_API_KEY", OTHER)
        monkeypatch.setenv("SOME_KEYS", "nothing-secret")
        assert scrub(f"{OTHER} nothing-secret", "more-secret") == "*** nothing-secret"
        assert scrub("more-secret", "more-secret") == "***"

    def test_logs_and_exceptions(self, caplog: pytest.LogCaptureFixture) -> None:
        remember(OTHER)
        before = logging.getLogRecordFactory(), sys.excepthook
        guard()
        try:
            log = logging.getLogger("a.library")
            log.warning("sent %s to %s", OTHER, "there")
            try:
                raise RuntimeError(f"Bearer {OTHER}")
            except RuntimeError:
                log.exception("failed")
        finally:
            logging.setLogRecordFactory(before[0])
            sys.excepthook = before[1]
        assert OTHER not in caplog.text
        assert "sent *** to there" in caplog.text and "RuntimeError: Bearer ***" in caplog.text

    def test_a_bug_shows_its_traceback_without_the_token(self, tmp_path: Path) -> None:
        program = (
            "import logging, threading, warnings\n"
            "from ftx.redaction import guard\n"
            "guard()\n"
            "def fail(): raise ValueError('sent ' + __import__('os').environ['HF_TOKEN'])\n"
            "warnings.warn('see ' + __import__('os').environ['HF_TOKEN'])\n"
            "one = threading.Thread(target=fail); one.start(); one.join()\n"
            "fail()\n"
        )
        about = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_TOKEN": TOKEN}
        done = subprocess.run([sys.executable, "-c", program], env=about, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and TOKEN not in done.stdout + done.stderr
        assert done.stderr.count("ValueError: sent ***") == 2 and "see ***" in done.stderr

    @pytest.mark.parametrize("place", ["huggingface"], indirect=True)
    def test_what_a_hub_repeats(self, ftx: Any, place: Place, adapter: Path) -> None:
        """A hub that puts the token into its answers, as some proxies do."""

        def echo(self: Any) -> None:
            self.refuse(403, f"the token {TOKEN} may not do this")

        handler = place.server.RequestHandlerClass
        real, handler.create = handler.create, lambda self, asked: echo(self)  # type: ignore[attr-defined]
        try:
            for more in ([], ["--json"]):
                result = ftx(*[word for word in place.words(adapter) if word != "--json"], *more)
                assert result.code == 5 and "the token *** may not do this" in result.err, result.err
                assert TOKEN not in result.out + result.err
        finally:
            handler.create = real  # type: ignore[attr-defined]

    @pytest.mark.parametrize("place", ["huggingface"], indirect=True)
    def test_a_kept_token_does_not_leave_with_a_model(self, ftx: Any, adapter: Path, place: Place) -> None:
        logins.save("https://git.example.org", "git", "ann", OTHER, "file")
        app = adapter.parent / "app"
        app.mkdir()
        (app / "app.py").write_text(f"key = '{OTHER}'\n", "utf-8")
        result = ftx(*place.words(app))
        assert (result.code, "app.py holds a token that ftx login keeps for you" in result.err) == (2, True), result.err
