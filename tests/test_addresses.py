"""Addresses of hubs and proxies in the environment: refused in a sentence, without what may be secret in them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from ftx.errors import HubError
from ftx.publish.addresses import plain_address
from ftx.publish.answers import unreachable
from ftx.redaction import scrub

PASSWORD = "s3cretpass99"
HUBS = [("huggingface", "HF_ENDPOINT", "HF_TOKEN"), ("modelscope", "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN")]
VARIABLES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    pytest.importorskip("modelscope_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))


def refused(ftx: Any, hub: str, out: Path) -> str:
    result = ftx("download", f"{hub}:a/b", "--out", out)
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert PASSWORD not in result.err
    return str(result.err)


@pytest.mark.parametrize(("hub", "variable", "token"), HUBS)
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://[bad", "is no address"),
        ("https://host:port", "is no address"),
        ("host", "must begin with https://"),
        (f"http://ann:{PASSWORD}", "is no address"),
        (f"http://ann:{PASSWORD}@127.0.0.1:9", "holds more than an address"),
    ],
)
def test_endpoints(
    ftx: Any, hub: str, variable: str, token: str, address: str, words: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv(variable, address)
    assert f"{variable} {words}" in refused(ftx, hub, tmp_path / "out")


@pytest.mark.parametrize(("hub", "variable", "token"), HUBS)
def test_no_token_goes_in_clear(
    ftx: Any, hub: str, variable: str, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://mirror.invalid")
    monkeypatch.setenv(token, PASSWORD)
    assert f"{token} would go to http://mirror.invalid in clear: use https" in refused(ftx, hub, tmp_path / "out")
    monkeypatch.delenv(token)
    monkeypatch.setattr("sys.stdin", io.StringIO(PASSWORD))
    result = ftx("login", hub, "--token-stdin")
    assert (result.code, "in clear: use https" in result.err) == (2, True), result.err


@pytest.mark.parametrize(("hub", "variable", "token"), HUBS)
@pytest.mark.parametrize(
    ("proxy", "words"),
    [("socks5://127.0.0.1:1", "names a SOCKS proxy, which needs"), ("http://127.0.0.1:port", "is no address")],
)
def test_proxies(
    ftx: Any, hub: str, variable: str, token: str, proxy: str, words: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv(variable, "https://mirror.invalid")
    monkeypatch.setenv("all_proxy", proxy)
    monkeypatch.setattr("ftx.publish.addresses.find_spec", lambda name: None)
    assert f"all_proxy {words}" in refused(ftx, hub, tmp_path / "out")


def test_a_proxy_that_is_none_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://ann:{PASSWORD}@host:port")
    error = unreachable("a hub", "https://hub.invalid", f"could not parse ann:{PASSWORD}@host:port")
    assert isinstance(error, HubError) and "of https_proxy" in str(error)
    assert PASSWORD not in scrub(str(error)), "a proxy's password is a secret"


def test_what_an_address_is() -> None:
    assert plain_address("https://hub.example.org:8443/hf/", "T") == "https://hub.example.org:8443/hf"
    for wrong in ("https://", "https://a?b=c", "ftp://a", "https://a:0"):
        with pytest.raises(ValueError, match=r"address|https://"):
            plain_address(wrong, "T")
