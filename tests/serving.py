"""A server of ftx on a free port, in this process, for the tests that ask it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from openai import OpenAI

from ftx.serve.app import Limits
from ftx.serve.checks import open_port
from ftx.serve.run import Server, Settings, serve
from ftx.talk import Answer, Talk

NAME = "tiny"


@contextmanager
def serving(talk: Talk, *, key: str | None = None, max_body: int = 32 << 20, **settings: Any) -> Iterator[str]:
    """The /v1 address of a server over `talk`, which ends with the block."""
    up = threading.Event()
    servers: list[Server] = []

    def started(server: Server) -> None:
        servers.append(server)
        up.set()

    opened = open_port("127.0.0.1", 0)
    url = f"http://127.0.0.1:{opened.getsockname()[1]}/v1"
    chosen = Settings(NAME, Limits(key, max_body), **{"grace": 5, **settings})
    thread = threading.Thread(target=serve, args=(talk, opened, chosen, started))
    thread.start()
    assert up.wait(60)
    try:
        yield url
    finally:
        servers[0].should_exit = True
        thread.join()


def client(url: str, key: str = "none") -> OpenAI:
    """The real client, which shows a refusal instead of asking again."""
    return OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60)


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


class Watched:
    """Keeps the answers of a talk and tells when one begins."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.began = threading.Event()
        self.answers: list[Answer] = []
        self._answer = talk.answer

    def __call__(self, *arguments: Any) -> Answer:
        self.began.set()
        self.answers.append(self._answer(*arguments))
        return self.answers[-1]
