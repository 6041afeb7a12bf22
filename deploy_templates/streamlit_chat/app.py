"""Starts the page (page.py) under Streamlit, for hosts that run `python app.py`."""

from __future__ import annotations

import os
import socket
import sys

from refused import CannotStart
from settings import HERE, read_settings


def main() -> None:
    try:
        settings = read_settings()
    except CannotStart as error:
        sys.exit(f"app: {error}")
    host, port = settings["host"], int(os.environ.get("PORT") or settings["port"])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            sys.exit(f"app: port {port} cannot be used ({error.strerror}); name another one with PORT=NUMBER.")
    os.chdir(HERE)
    flags = [f"--server.address={host}", f"--server.port={port}"]  # the rest is in .streamlit/config.toml
    os.execv(sys.executable, [sys.executable, "-m", "streamlit", "run", "page.py", *flags])


if __name__ == "__main__":
    main()
