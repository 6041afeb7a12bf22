"""Addresses of hubs, git hosts and proxies as the user gives them: looked at before anything is sent there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

from ftx.errors import RecipeError
from ftx.git_token import LOOPBACK

PROXIES = ("https_proxy", "http_proxy", "all_proxy")


def plain_address(value: str, variable: str) -> str:
    """The address of a host without a slash at its end; `variable` is that of the token for it.

    Raises ValueError for what is more or less than an address, without quoting it: a password may be in it.
    """
    if not value.startswith(("https://", "http://")):
        raise ValueError("must begin with https:// or http://")
    try:
        parts = urlsplit(value)
        more = bool(parts.username or parts.password or parts.query or parts.fragment)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        more = whole = False
    if more:
        raise ValueError(f"holds more than an address; the token belongs into {variable}")
    if not whole:
        raise ValueError("is no address; write it as https://HOST or https://HOST:PORT")
    return value.rstrip("/")


def endpoint(name: str, default: str, variable: str) -> str:
    """The address in the environment variable `name`; `variable` is that of the token for it. Raises RecipeError."""
    try:
        return plain_address(os.environ.get(name) or default, variable)
    except ValueError as error:
        raise RecipeError(f"{name} {error}") from None


def refuse_clear(address: str, variable: str) -> None:
    """Raise RecipeError where a token would be readable on its way."""
    parts = urlsplit(address)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise RecipeError(f"{variable} would go to {address} in clear: use https")


def proxies(names: tuple[str, ...] = PROXIES) -> Iterator[tuple[str, str]]:
    """The variables that name a proxy, with what they hold, in the order in which clients look at them."""
    for name in names:
        for variable in (name, name.upper()):
            if value := os.environ.get(variable):
                yield variable, value


def proxy_of(address: str) -> tuple[str, str] | None:
    """The variable with the proxy on the way to an address, and what it holds."""
    parts = urlsplit(address)
    if proxy_bypass(parts.hostname or ""):
        return None
    return next(proxies((f"{parts.scheme}_proxy", "all_proxy")), None)


def told_proxy(value: str) -> str | None:
    """Host and port of a proxy, without the password that may be in it; None for what is no address."""
    try:
        parts = urlsplit(value if "//" in value else f"//{value}")
        return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
    except ValueError:
        return None


def refuse_bad_proxies() -> None:
    """Raise RecipeError for what httpx does not take: it reads all proxies, whatever it is asked for."""
    for variable, value in proxies():
        _refuse_bad_proxy(variable, value, "socksio", "socksio")


def refuse_bad_proxy_of(address: str) -> None:
    """The same of requests, which reads the one proxy that is on its way."""
    if found := proxy_of(address):
        _refuse_bad_proxy(*found, "socks", "pysocks")


def _refuse_bad_proxy(variable: str, value: str, module: str, package: str) -> None:
    """`module`, of `package`, is what the client needs for SOCKS."""
    if told_proxy(value) is None:
        raise RecipeError(f"{variable} is no address of a proxy; write it as http://HOST:PORT")
    if value.lower().startswith("socks") and find_spec(module) is None:
        raise RecipeError(f"{variable} names a SOCKS proxy, which needs {package}: pip install {package}, or unset it")
