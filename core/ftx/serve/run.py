"""The server's life: requests until SIGTERM or SIGINT, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn

from ftx.serve.app import Limits, Routes
from ftx.serve.engine import Engine
from ftx.talk import Talk

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LAST_TOKEN = 10  # seconds in which an answer that was told to end should have


@dataclass(frozen=True)
class Settings:
    """`name` is what clients call the model; `grace` are seconds in which running answers may end."""

    name: str
    limits: Limits
    max_new_tokens: int = 1024
    max_queue: int = 64
    grace: int = 30


class Server(uvicorn.Server):
    """uvicorn's, which says when it answers: `should_exit` ends it from another thread."""

    def __init__(self, engine: Engine, settings: Settings, started: Callable[[Server], None]) -> None:
        routes = Routes(engine, settings.name, settings.limits)
        super().__init__(
            uvicorn.Config(
                routes.app(),
                lifespan="off",
                access_log=False,  # what people ask is theirs
                log_level="error",
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=settings.grace + LAST_TOKEN,
            )
        )
        self._engine = engine
        self._grace = settings.grace
        self._say = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._say(self)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(self._grace, self._end_what_runs)
        await super().shutdown(sockets)
        timer.cancel()
        self._end_what_runs()

    def _end_what_runs(self) -> None:
        self._engine.stop()
        # What is cancelled from now on is no mistake for the log.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)


def serve(talk: Talk, opened: socket.socket, settings: Settings, started: Callable[[Server], None]) -> None:
    """Answer requests on the listening socket until a signal; then let what runs end within the grace time.

    `started` is called once requests are answered. Raises KeyboardInterrupt when a second SIGINT ends it at once.
    """
    with _ours_to_end():
        server = asyncio.run(_serve(talk, opened, settings, started))
    if server.force_exit:
        raise KeyboardInterrupt


async def _serve(talk: Talk, opened: socket.socket, settings: Settings, started: Callable[[Server], None]) -> Server:
    engine = Engine(talk, settings.max_new_tokens, settings.max_queue)
    server = Server(engine, settings, started)
    try:
        await server.serve([opened])
    finally:
        engine.close()
    return server


@contextlib.contextmanager
def _ours_to_end() -> Iterator[None]:
    """Keep the signals that uvicorn sends itself once more after a clean end from ending the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
