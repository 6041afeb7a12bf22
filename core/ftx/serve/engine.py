"""One model, one thread that asks it, and a bounded line of those who wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ftx.errors import lacks_memory
from ftx.serve.question import Question, prepare
from ftx.serve.refusal import OVERLOADED, SERVER, Refusal

if TYPE_CHECKING:
    from ftx.serve.protocol import ChatRequest
    from ftx.talk import Answer, Talk

RETRY_AFTER = 2  # seconds, a guess at when a place is free


class Gone(Exception):
    """The client went away before its turn came."""


class Engine:
    """Answers questions one after another; `max_waiting` may stand in line behind the one that is answered.

    All methods are called in the event loop's thread.
    """

    def __init__(self, talk: Talk, max_new_tokens: int, max_waiting: int) -> None:
        self.talk = talk
        self.max_new_tokens = max_new_tokens
        self._max_waiting = max_waiting
        self._open: set[Work] = set()
        # Questions are read beside the answering, so that a wrong one is refused at once.
        self._reader = ThreadPoolExecutor(1, "ftx-read")
        self._answerer = ThreadPoolExecutor(1, "ftx-answer")

    def refuse_full(self) -> None:
        """Raise Refusal when all places in line are taken."""
        if len(self._open) > self._max_waiting:
            raise overloaded(f"{self._max_waiting} questions are waiting already")

    def enter(self) -> Work:
        """A place in line, to be given back by `Work.leave`. Raises Refusal when all are taken."""
        self.refuse_full()
        work = Work(self.talk, self._reader, self._answerer, self._open.discard)
        self._open.add(work)
        return work

    def stop(self) -> None:
        """End what still runs after its next token, and what waits at once; their clients are told."""
        for work in self._open:
            work.stop()

    def close(self) -> None:
        """Stop, and wait until the threads have ended."""
        self.stop()
        for pool in (self._reader, self._answerer):
            pool.shutdown(wait=True, cancel_futures=True)


class Work:
    """One request's way through the engine: read, start, pieces, answer, and leave whatever happened."""

    def __init__(
        self, talk: Talk, reader: ThreadPoolExecutor, answerer: ThreadPoolExecutor, left: Callable[[Work], None]
    ) -> None:
        self._talk = talk
        self._reader = reader
        self._answerer = answerer
        self._left = left
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._gone = threading.Event()
        self._stopped = False
        self._folder = TemporaryDirectory(prefix="ftx-serve-", ignore_cleanup_errors=True)
        self._future: Future[Answer] | None = None

    async def read(self, request: ChatRequest, limit: int) -> Question:
        """The request's question. Raises Refusal."""
        folder = Path(self._folder.name)
        return await self._loop.run_in_executor(self._reader, prepare, request, self._talk, limit, folder)

    def start(self, question: Question) -> None:
        """Join the line with `question`. Raises Refusal when the server is ending."""
        if self._stopped:
            raise _ending()
        self._future = self._answerer.submit(self._answer, question)
        self._future.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._ended))

    def _answer(self, question: Question) -> Answer:
        return self._talk.answer(question.messages, question.sampling, self._put, self._gone.is_set)

    def _ended(self) -> None:
        """The place is free as soon as the answer is there, however slowly the client reads it."""
        self._left(self)
        self._pieces.put_nowait(None)

    def _put(self, piece: str) -> None:
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    async def pieces(self) -> AsyncIterator[str]:
        """The answer's text as it comes."""
        while (piece := await self._pieces.get()) is not None:
            yield piece

    def error(self) -> BaseException | None:
        """What kept the answer from coming, asked after the last piece: Gone, Refusal, or a bug."""
        assert self._future is not None
        if self._stopped:
            return _ending()
        if self._future.cancelled():
            return Gone()
        error = self._future.exception()
        if error is not None and lacks_memory(error):
            return Refusal(
                503,
                "there is not enough memory for this question now; ask a shorter one or try again",
                kind=SERVER,
                code="out_of_memory",
                headers={"Retry-After": str(RETRY_AFTER)},
            )
        return error

    def answer(self) -> Answer:
        """The answer, once there are no more pieces. Raises what `error` says."""
        error = self.error()
        if error is not None:
            raise error
        assert self._future is not None
        return self._future.result()

    def stop(self) -> None:
        """End the answer because the server ends."""
        if self._future is None or not self._future.done():
            self._stopped = True
            self._gone.set()
        if self._future is not None:
            self._future.cancel()

    def leave(self) -> None:
        """Give the place back; an answer that nobody reads any more ends after its next token."""
        self._gone.set()
        if self._future is None or self._future.cancel() or self._future.done():
            self._folder.cleanup()
        else:
            self._future.add_done_callback(lambda _: self._folder.cleanup())
        self._left(self)


def overloaded(why: str) -> Refusal:
    headers = {"Retry-After": str(RETRY_AFTER)}
    return Refusal(429, f"{why}; ask again in a moment", kind=OVERLOADED, code="queue_full", headers=headers)


def _ending() -> Refusal:
    return Refusal(503, "the server is ending; ask again when it is back", kind=SERVER, code="server_ending")
