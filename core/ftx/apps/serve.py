"""An app as a process: started on a port, awaited by its health route, stopped with all that it started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftx.checkpoint_files import read_json
from ftx.errors import ModelError, RecipeError

STARTS = 900.0  # seconds until the health route has to answer: large models take long to load
STOPS = 20.0
SHOWN = 4  # lines of the app's own that a sentence quotes


def app_manifest(folder: Path) -> dict[str, Any]:
    """The folder's app.json. Raises RecipeError when it is no app."""
    if not (folder / "app.json").is_file():
        raise RecipeError(f"{folder} is no app: it has no app.json; make one with ftx app new")
    return read_json(folder / "app.json")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(folder: Path, python: Path, settings: Mapping[str, str]) -> Iterator[str]:
    """The address of the app in `folder`, which runs as long as the block does. `settings` join its environment.

    Raises ModelError with the app's last words when it does not start.
    """
    port = free_port()
    address = {"PORT": str(port), "APP_HOST": "127.0.0.1", "GRADIO_SERVER_NAME": "127.0.0.1", "PYTHONUNBUFFERED": "1"}
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as said:
        app = subprocess.Popen(
            [python, "app.py"], cwd=folder, env={**os.environ, **address, **settings}, stdout=said, stderr=said
        )
        try:
            if not _healthy(url + app_manifest(folder)["health"], app):
                said.seek(0)
                last = " ".join(said.read().decode("utf-8", "replace").splitlines()[-SHOWN:])
                raise ModelError(f"{folder}: the app did not start: {last}")
            yield url
        finally:
            app.terminate()
            try:
                app.wait(STOPS)
            except subprocess.TimeoutExpired:
                app.kill()
                app.wait()


def _healthy(url: str, app: subprocess.Popen[bytes]) -> bool:
    """Wait until the health route answers; False when the app ended before, or never does."""
    until = time.monotonic() + STARTS
    while app.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  (our own loopback address)
                return bool(answer.status == 200)
        except OSError:
            time.sleep(0.1)
    return False


def run_app(folder: Path, python: Path, port: int | None, host: str | None) -> int:
    """Run the app until it ends or is interrupted; its exit code."""
    app_manifest(folder)
    settings = {}
    if port is not None:
        settings["PORT"] = str(port)
    if host is not None:
        settings |= {"APP_HOST": host, "GRADIO_SERVER_NAME": host}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that the app ends with us
    app = subprocess.Popen([python, "app.py"], cwd=folder, env={**os.environ, **settings})
    try:
        return app.wait()
    except KeyboardInterrupt:
        app.terminate()
        app.wait()
        return 0


def asked(folder: Path, python: Path, url: str, settings: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the app's own smoke test says that it answers: {"question", "prompt", "prompt_ids", "answer"} each.

    Raises ModelError when the test itself fails.
    """
    done = subprocess.run(
        [python, "smoke_test.py", "--url", url, "--json"],
        cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise ModelError(f"{folder}: its smoke test failed: {' '.join(done.stderr.splitlines()[-SHOWN:])}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
