"""What goes wrong at each step of publishing: what is told, what lies on the hub after, that a second try completes.

`scripts/fault_table` runs this and writes docs/faults.md from what was seen.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benches import BENCHES, REPO, Bench, bench_of
from ftx.artifact import seal
from ftx.atomic import sha256_of
from hub_publishing import Fault
from hub_servers import TOKEN
from published import adapter_copy, made_once, merged_copy, verified  # noqa: F401 (fixtures)

NONE, EMPTY, WHOLE, OTHERS = "no repository", "an empty repository", "all of it", "what was there before"
STATUSES = (401, 403, 404, 409, 412, 413, 422, 429, 500, 503, 0)
SAYS = {
    401: "does not know this token",
    403: "may not write",
    404: "is gone, or was renamed",
    409: "someone else changed",
    412: "someone else changed",
    413: "for its size: injected",
    422: "refuses what was sent to ann/cats: injected",
    429: "asks for a pause",
    500: "answered 500",
    503: "answered 503",
    0: "cannot be reached",
}
READING = ("list", "confirm")  # calls that want no right to write
STORAGE = (401, 403, 404)
# What huggingface_hub asks again, with pauses that grow to 23 seconds: met once here, after which it goes on by itself.
ASKED_AGAIN = ("preupload", "batch", "PUT", "verify")
PASSING = (429, 500, 503, 0)
QUICK = (("batch", 429), ("PUT", 503), ("PUT", 0), ("verify", 500))  # of those, the ones for every day


@dataclass(frozen=True)
class Row:
    """A fault, and what is to come of it: the exit code, a part of the sentence, what lies on the hub."""

    hub: str
    fault: str
    code: int
    says: str
    left: str
    arrange: Callable[[Bench, Path, pytest.MonkeyPatch], None]
    mend: Callable[[Bench, Path, pytest.MonkeyPatch], None] | None = None
    more: tuple[str, ...] = ()
    more_then: tuple[str, ...] | None = None  # at the second try
    receipt: bool = False  # whether one may be there after the first try


def at_each_call(hub: str) -> Iterator[Any]:
    """Each status at each call."""
    for call in BENCHES[hub].calls:
        for status in STATUSES:
            again = hub == "huggingface" and call in ASKED_AGAIN and status in PASSING
            slow = hub == "openxlab" or (again and (call, status) not in QUICK)
            marks = [pytest.mark.system] if slow else []
            name = f"{hub}-{call}-{status or 'cut'}"
            yield pytest.param(_answering(hub, call, status, 1 if again else 99), id=name, marks=marks)


def _answering(hub: str, call: str, status: int, times: int) -> Row:
    def arrange(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bench.fail(call, status, times)

    what = f"{call}: {status or 'connection cut'}"
    if times == 1:
        return Row(hub, f"{what} once", 0, "", WHOLE, arrange, receipt=True)
    more = ("--public",) if call == "visibility" else ()
    says, left = _expected(hub, call, status)
    code = 0 if says == "" else 5
    return Row(hub, what, code, says, left, arrange, more=more, receipt=call == "visibility" or code == 0)


def _expected(hub: str, call: str, status: int) -> tuple[str, str]:
    left = {"list": NONE, "create": NONE, "confirm": WHOLE, "visibility": WHOLE}.get(call, EMPTY)
    if hub == "openxlab":
        return _by_git(call, status), WHOLE if (call, status) in IGNORED else EMPTY if left == NONE else left
    if hub == "modelscope" and status == 404 and call in ("list", "confirm"):
        return "cannot be found after it was sent", WHOLE  # as where there is none: it is made and filled
    if call in ("PUT", "verify") and status in STORAGE:
        return f"storage does not take a file of ann/cats ({status}: injected)", left
    if status == 403 and call in READING:
        return "may not read", left
    return SAYS[status], left


LFS_CALLS = ("locks", "batch", "PUT", "verify")
IGNORED = (("locks", 404), ("verify", 422))  # by git-lfs: a host without locks; an object that, as we ask, is there


def _by_git(call: str, status: int) -> str:
    """git tells the status; git-lfs only what the host says of it."""
    if (call, status) in IGNORED:
        return ""
    if (call, status) == ("PUT", 422):
        return "did not keep 1 of the files"  # which git-lfs takes for success
    if call in LFS_CALLS and status not in (0, 401):
        return "does not know" if (call, status) == ("locks", 403) else "git did not go through"
    right = "read" if call in READING else "write"
    told = {403: f"does not let this token {right}", 413: "for its size", 422: "refuses what was sent"}
    if status == 404:
        return "there is no repository" if call == "list" else "there is no repository|cannot be found"
    return told.get(status, SAYS[status])


def _set(**values: Any) -> Callable[[Bench, Path, pytest.MonkeyPatch], None]:
    """Attributes of the server."""

    def arrange(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in values.items():
            setattr(bench.server, name, value)

    return arrange


def _token(value: str | None) -> Callable[[Bench, Path, pytest.MonkeyPatch], None]:
    def arrange(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if value is None:
            monkeypatch.delenv(bench.variable)
        else:
            monkeypatch.setenv(bench.variable, value)

    return arrange


def _read_only(yes: bool) -> Callable[[Bench, Path, pytest.MonkeyPatch], None]:
    def arrange(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if bench.publisher == "openxlab":
            bench.server.users["ann"] = (TOKEN, not yes)
        else:
            bench.server.writes = not yes

    return arrange


def _someone_elses(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.make({"theirs.txt": b"theirs\n"})


def _pushed_between(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if bench.publisher == "openxlab":
        bench.make({"README.md": b"# new\n"})
        bench.server.pushed = lambda: (setattr(bench.server, "pushed", None), bench.push_between("theirs.txt"))
    else:
        bench.make({".gitattributes": b"x"})
        bench.server.between = lambda: bench.push_between("theirs.txt")


def _taken_back(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one's file is taken out by whoever put it there."""
    bench.push_without("theirs.txt")


def _changed_meanwhile(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A description is written to while the weights are on their way; what is sent is the copy that was checked."""
    template = folder / "chat_template.jinja"
    shutil.copyfile(template, folder.parent / "kept")
    change = lambda: template.write_text("{{ changed }}", "utf-8")  # noqa: E731
    if bench.publisher == "openxlab":
        bench.server.pushed = change
    else:
        bench.server.between = change


def _put_back(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.server.pushed = bench.server.between = None
    shutil.copyfile(folder.parent / "kept", folder / "chat_template.jinja")


def _weights_changed(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large files are links to the artefact's own, so that who writes into them writes into what is sent."""
    from ftx.publish import render

    monkeypatch.setattr(render, "SMALL", 100_000)
    weights = folder / "adapter_model.safetensors"
    shutil.copyfile(weights, folder.parent / "kept")
    where = {"huggingface": "validate-yaml", "modelscope": "/objects/batch", "openxlab": "/locks/verify"}
    bench.server.faults = [Writing("POST", where[bench.publisher], 0, 1, target=weights)]


@dataclass
class Writing(Fault):
    """Writes into a file when the hub is asked, and lets the request pass."""

    target: Path = Path()

    def due(self, method: str, path: str, asked: Any) -> bool:
        if super().due(method, path, asked):
            content = bytearray(self.target.read_bytes())
            content[-1] ^= 1
            self.target.write_bytes(bytes(content))
        return False


def _weights_back(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(folder.parent / "kept", folder / "adapter_model.safetensors")


def sealed_anew(folder: Path) -> None:
    manifest = json.loads((folder / "ftx.json").read_text("utf-8"))
    facts = {key: value for key, value in manifest.items() if key not in ("kind", "created", "versions", "files")}
    seal(folder, manifest["kind"], **facts)
    verified(folder)


def _pointer(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = folder / "adapter_model.safetensors"
    shutil.copyfile(weights, folder.parent / "kept")
    oid, size = sha256_of(weights), weights.stat().st_size
    weights.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n", "utf-8")
    sealed_anew(folder)


def _no_index(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(folder / "adapter_model.safetensors", folder / "model-00001-of-00002.safetensors")
    shutil.copyfile(folder / "adapter_model.safetensors", folder / "model-00002-of-00002.safetensors")
    sealed_anew(folder)


def _fetched(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (folder.parent / "kept").exists():
        shutil.copyfile(folder.parent / "kept", folder / "adapter_model.safetensors")
    for shard in folder.glob("model-*.safetensors"):
        shard.unlink()
    sealed_anew(folder)


def _skewed(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fail("PUT", 403, says="RequestTimeTooSkewed: the difference between the request time and the server's")


def _dead_proxy(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _anew()
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("http_proxy", "http://ann:pass-word-1@127.0.0.1:9")


def _asking_proxy(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _anew()
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("http_proxy", bench.server.url)
    bench.server.faults = [Fault("", "", 407, 99, head={"Proxy-Authenticate": "Basic"})]


def _no_proxy(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _anew()
    monkeypatch.delenv("http_proxy")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def _anew() -> None:
    """huggingface_hub keeps its connections, and how they go."""
    from huggingface_hub import close_session

    close_session()


def _aged(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's certificate is trusted and ended yesterday, as it seems to a clock that is ahead."""
    _anew()
    certificate = expired_certificate(folder.parent / "certificate.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    bench.server.socket = context.wrap_socket(bench.server.socket, server_side=True)
    bench.server.scheme = "https"
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO"):
        monkeypatch.setenv(name, str(certificate))
    _endpoints(bench, monkeypatch)


def _in_time(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _anew()
    bench.server.socket = socket.socket(fileno=bench.server.socket.detach())
    bench.server.scheme = "http"
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO"):
        monkeypatch.delenv(name)
    _endpoints(bench, monkeypatch)


def _endpoints(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        if name in os.environ:
            monkeypatch.setenv(name, bench.server.url)


def expired_certificate(path: Path) -> Path:
    """A certificate for 127.0.0.1 that is its own authority, with its key; it ended yesterday."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - timedelta(days=9))
        .not_valid_after(today - timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(*form) + made.public_bytes(serialization.Encoding.PEM))
    return path


def _no_receipt(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "publish.json").mkdir()


def _receipt_again(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "publish.json").rmdir()


def _large_cut(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.server.cut_after = 100_000


def _renamed(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if bench.publisher == "openxlab":
        bench.server.new("ann/dogs")
        bench.server.moved[REPO] = "ann/dogs"
    else:
        bench.server.add("ann/dogs", {".gitattributes": b"x"}, bench.branch)
        bench.server.renamed[REPO] = "ann/dogs"


def _named_back(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    getattr(bench.server, "moved" if bench.publisher == "openxlab" else "renamed").clear()


def _nothing(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pass


def others(hub: str) -> Iterator[Any]:
    """What is no single answer of the hub."""
    http = hub != "openxlab"
    left = NONE if http else EMPTY
    begun = EMPTY  # the repository is there, nothing of ours in it
    variable = BENCHES[hub].variable
    rights = "may not write to" if http else "does not let this token write"
    between = {"huggingface": "someone else changed", "openxlab": "someone else changed"}
    rows = [
        Row(hub, "wrong token", 5, SAYS[401], left, _token("wrong-token-1234"), _token(TOKEN)),
        Row(hub, "no token", 5, f"set {variable}", left, _token(None), _token(TOKEN)),
        Row(hub, "read-only token", 5, rights, left, _read_only(True), _read_only(False)),
        Row(hub, "holds other files", 2, "--replace", OTHERS, _someone_elses, more_then=("--replace",)),
        Row(hub, "name that no hub takes", 2, "OWNER/NAME", left, _nothing, more=("--repo", "ann/-x"), more_then=()),
        Row(hub, "no room (quota)", 5, "has no room", begun, _set(quota=1000), _set(quota=None)),
        Row(
            hub,
            "another push in between",
            5,
            between.get(hub, "is missing, changed or not ours"),
            "",
            _pushed_between,
            _taken_back,
        ),
        Row(
            hub, "a description changed while it is sent", 7, "was changed while", WHOLE, _changed_meanwhile, _put_back
        ),
        Row(hub, "weights changed while they are sent", 7, "was changed while", begun, _weights_changed, _weights_back),
        Row(hub, "a pointer of Git LFS instead of the weights", 2, "git lfs pull", left, _pointer, _fetched),
        Row(hub, "shards without their index", 2, "the index of the shards, is missing", left, _no_index, _fetched),
        Row(hub, "a proxy that is not there", 5, "the proxy 127.0.0.1:9 of http_proxy", left, _dead_proxy, _no_proxy),
        Row(hub, "a proxy that asks who one is", 5, "asks who you are: put name", left, _asking_proxy, _no_proxy),
    ]
    rows += [
        Row(hub, "the clock is wrong (certificate)", 5, "machine's clock", left, _aged, _in_time),
        Row(hub, "the receipt cannot be written", 10, "all arrived", WHOLE, _no_receipt, _receipt_again, receipt=True),
    ]
    if http:
        rows += [
            Row(hub, "someone else's name", 5, rights, left, _nothing, more=("--repo", "eve/cats"), more_then=()),
            Row(hub, "the clock is wrong (storage)", 5, "machine's clock", begun, _skewed),
        ]
    if hub != "modelscope":
        rows.append(Row(hub, "was renamed", 5, "was renamed", left, _renamed, _named_back))
    healed = hub != "modelscope"  # whose client sends an object once
    rows.append(
        Row(
            hub,
            "connection cut in a large object, once",
            0 if healed else 5,
            "" if healed else "cannot be reached",
            WHOLE if healed else begun,
            _large_cut,
            receipt=healed,
        )
    )
    for row in rows:
        marks = [pytest.mark.system] if hub == "openxlab" else []
        yield pytest.param(row, id=f"{hub}-{row.fault}", marks=marks)


ROWS = [one for hub in BENCHES for rows in (at_each_call, others) for one in rows(hub)]
NAMES = [(row.values[0].hub, row.values[0].fault) for row in ROWS]  # in the order in which they are told


@pytest.mark.parametrize("row", ROWS)
def test_fault(
    ftx: Any, row: Row, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    with bench_of(row.hub, tmp_path, monkeypatch) as bench:
        row.arrange(bench, adapter, monkeypatch)
        first = ftx(*bench.words(adapter, *row.more))
        left = bench.left()
        assert first.code == row.code, first.err
        assert re.search(row.says, first.err) or row.says in first.err, first.err
        assert TOKEN not in first.out + first.err
        assert first.code == 0 or first.err.count("\n") == 1, first.err
        assert left == row.left or not row.left, left
        assert (adapter / "publish.json").exists() is row.receipt
        assert [path.name for path in adapter.parent.iterdir() if path.name.startswith(".")] == []
        bench.mend()
        if row.mend:
            row.mend(bench, adapter, monkeypatch)
        second = ftx(*bench.words(adapter, *(row.more if row.more_then is None else row.more_then)))
        assert second.code == 0, second.err
        assert bench.left() == WHOLE and (adapter / "publish.json").exists()
        assert len(bench.server.received) == len(set(bench.server.received)), "an object was sent twice"
        told = told_by(first.err, bench, adapter)
        number = NAMES.index((row.hub, row.fault))
        seen = {"hub": bench.hub, "fault": row.fault, "told": told, "code": first.code, "left": left, "number": number}
        record_property("seen", json.dumps(seen))


def told_by(said: str, bench: Bench, folder: Path) -> str:
    """The sentence, without what differs from run to run."""
    told = said.strip().removeprefix("ftx: ")
    for found, name in ((bench.server.url, "HOST"), (str(folder), "ARTEFACT")):
        told = told.replace(found, name)
    told = re.sub(r"port=\d+|127\.0\.0\.1:\d{4,}", "HOST", told)
    told = re.sub(r"/\S+/(?=\w+\.pem)", "", told)
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "DATE", told)


@pytest.mark.system
@pytest.mark.parametrize("hub", list(BENCHES))
def test_full_disk(
    ftx: Any, hub: str, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=True)
    try:
        with bench_of(hub, tmp_path, monkeypatch) as bench:
            small = Path(shutil.copytree(adapter, disk / "adapter"))
            first = ftx(*bench.words(small))
            assert (first.code, "No space left" in first.err) == (10, True), first.err
            left = bench.left()
            assert [path.name for path in disk.iterdir()] == ["adapter"] and bench.server.received == []
            subprocess.run(["mount", "-o", "remount,size=3m", disk], check=True)
            assert ftx(*bench.words(small)).code == 0
            told = told_by(first.err, bench, small).replace(str(disk), "DISK")
            seen = {"hub": bench.hub, "fault": "the disk is full", "told": told, "code": first.code, "left": left}
            record_property("seen", json.dumps({**seen, "number": len(NAMES)}))
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.system
@pytest.mark.parametrize(("hub", "call"), [(hub, call) for hub in BENCHES for call in BENCHES[hub].calls])
def test_killed(
    ftx: Any, hub: str, call: str, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    more = ("--public",) if call == "visibility" else ()
    with bench_of(hub, tmp_path, monkeypatch) as bench:
        bench.fail(call, -1, 1)
        about = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        words = [sys.executable, "-m", "ftx", *bench.words(adapter, *more)]
        process = subprocess.Popen(words, env=about, stdout=subprocess.DEVNULL, start_new_session=True)
        assert bench.server.reached.wait(120)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        bench.server.go.set()
        left = bench.left()
        assert left in (NONE, EMPTY, WHOLE), left
        assert (adapter / "publish.json").exists() is (call == "visibility")
        bench.mend()
        second = ftx(*bench.words(adapter, *more))
        assert second.code == 0, second.err
        assert bench.left() == WHOLE and (adapter / "publish.json").exists()
        assert [path.name for path in adapter.parent.iterdir() if path.name.startswith(".")] == []
        assert len(bench.server.received) == len(set(bench.server.received)), "an object was sent twice"
        seen = {"hub": bench.hub, "fault": f"kill -9 at: {call}", "told": "nothing", "code": -9, "left": left}
        number = len(NAMES) + 1 + list(bench.calls).index(call)
        record_property("seen", json.dumps({**seen, "number": number}))
