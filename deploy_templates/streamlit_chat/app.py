"""Starts the page (page.py) under Streamlit, for hosts that run `python app.py`."""

from __future__ import annotations

import os
import socket
import sys

from settings import HERE, read_settings


def main() -> None:
    settings = read_settings()
    host, port = settings["host"], int(os.environ.get("PORT") or settings["port"])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            sys.exit(f"app: port {port} cannot be used ({error.strerror}); name another one with PORT=NUMBER.")
    os.chdir(HERE)
    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    os.execv(sys.executable, [sys.executable, "-m", "streamlit", "run", "page.py", *flags])


if __name__ == "__main__":
    main()
