"""What is asked before the server starts: its packages, a key, a port, and a model that can stop."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from ftx.errors import FtxError, ModelError, RecipeError

if TYPE_CHECKING:
    from ftx.talk import Talk

API_KEY = "FTX_API_KEY"  # of the environment
PACKAGES = ("starlette", "uvicorn")
MAX_KEY = 4096  # characters


def refuse_without_packages() -> None:
    """Raise FtxError when what the extra `serve` brings is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise FtxError(f"ftx serve needs {' and '.join(missing)}; type: pip install 'ftx[serve]'")


def api_key(file: Path | None) -> str | None:
    """The key that clients must send: from `file`, else from FTX_API_KEY or its file. Raises RecipeError."""
    from ftx.publish.credentials import token

    key: str | None
    if file is None and os.environ.get(f"{API_KEY}_FILE"):
        key = token(API_KEY) or ""
        where = f"{API_KEY}_FILE"
    elif file is None:
        key = os.environ.get(API_KEY)
        where = API_KEY
    else:
        where = f"--api-key-file {file}"
        try:
            with file.open("rb") as opened:
                key = opened.read(MAX_KEY + 1).decode("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{where} cannot be read: {error}") from None
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isascii() and key.isprintable() and " " not in key):
        raise RecipeError(f"{where} holds no key: write one line of letters, digits and signs without spaces")
    return key


def open_port(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port`; 0 is any free one. Raises RecipeError when it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise RecipeError(f"--host {host} is no address of this machine; give 127.0.0.1 or 0.0.0.0") from None
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen()
    except OSError as error:
        opened.close()
        why = (error.strerror or str(error)).lower()
        raise RecipeError(
            f"--port {port} on {host} cannot be had: {why}; give another --port, or 0 for any that is free"
        ) from None
    return opened


def refuse_endless(talk: Talk, path: Path) -> None:
    """Raise ModelError for a model that has no token to stop with."""
    if not talk.stop_ids:
        raise ModelError(
            f"{path} has no stop token, so its answers would never end; put eos_token_id into its "
            "generation_config.json, or give --template NAME of one that it was trained to stop with"
        )
