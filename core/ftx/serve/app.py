"""The HTTP routes: /health, /v1/models, /v1/chat/completions and /tokenize, errors in OpenAI's form."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ftx.serve.engine import Engine, Gone, Work, overloaded
from ftx.serve.protocol import DONE, ChatRequest, Reply, event, finish_reason, read_request
from ftx.serve.question import Question
from ftx.serve.refusal import AUTHENTICATION, SERVER, Refusal

BODY_SECONDS = 60  # in which a body must have come
ARRIVING = 16  # bodies of the largest size that are held while they come
CLOSE = {"Connection": "close"}  # what is still to come is not read: the connection cannot serve again
CLIENT_GONE = 499  # nginx's number for an answer that nobody reads
log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Limits:
    """`key` is what clients must send, None when anybody may ask. `max_body` is in bytes."""

    key: str | None
    max_body: int


class Routes:
    """The routes over one engine, whose model clients call `name`."""

    def __init__(self, engine: Engine, name: str, limits: Limits) -> None:
        self._engine = engine
        self._name = name
        self._limits = limits
        self._created = int(time.time())
        self._arriving = 0  # bytes of the bodies that are coming

    def app(self) -> Starlette:
        routes = [
            Route("/health", self._health),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._model),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {
            Refusal: _refused,
            HTTPException: _no_route,
            Gone: _nobody,
            ClientDisconnect: _nobody,
        }
        return Starlette(routes=routes, exception_handlers={**handlers, Exception: _mistake})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _models(self, request: Request) -> Response:
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def _model(self, request: Request) -> Response:
        self._check_key(request)
        self._check_name(request.path_params["name"])
        return JSONResponse(self._described())

    def _described(self) -> dict[str, Any]:
        context = self._engine.talk.max_positions
        own = {"id": self._name, "object": "model", "created": self._created, "owned_by": "ftx"}
        return {**own, "max_model_len": context}

    async def _chat(self, request: Request) -> Response:
        asked = await self._asked(request)
        with contextlib.ExitStack() as place:
            work = self._engine.enter()
            place.callback(work.leave)
            question = await work.read(asked, self._engine.max_new_tokens)
            work.start(question)
            if asked.stream:
                place.pop_all()  # the response gives it back
                return _Streamed(work, _events(work, asked, question))
            return await _whole(request, work, Reply(asked.model), len(question.prompt))

    async def _tokenize(self, request: Request) -> Response:
        """The prompt's ids for the same request, in vLLM's form, so that what is served can be compared with others."""
        asked = await self._asked(request)
        with contextlib.ExitStack() as place:
            work = self._engine.enter()
            place.callback(work.leave)
            question = await work.read(asked, self._engine.max_new_tokens)
        context = self._engine.talk.max_positions
        return JSONResponse({"count": len(question.prompt), "max_model_len": context, "tokens": question.prompt})

    async def _asked(self, request: Request) -> ChatRequest:
        """What the client wants, all of which has come. Who is slow to send it stands in nobody's way."""
        self._check_key(request)
        self._engine.refuse_full()
        asked = read_request(await self._body(request))
        self._check_name(asked.model)
        return asked

    def _check_key(self, request: Request) -> None:
        if self._limits.key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self._limits.key.encode())
        if scheme.lower() != "bearer" or not right:
            message = "the API key is wrong" if given else "this server wants an API key: Authorization: Bearer KEY"
            headers = {"WWW-Authenticate": "Bearer"}
            raise Refusal(401, message, kind=AUTHENTICATION, code="invalid_api_key", headers=headers)

    def _check_name(self, name: str) -> None:
        if name != self._name:
            message = f"there is no model '{name[:100]}' here; this server has '{self._name}'"
            raise Refusal(404, message, code="model_not_found", param="model")

    async def _body(self, request: Request) -> bytes:
        """The request's body. Raises Refusal for one that is no JSON, too large or too slow."""
        # A page in a browser can send other types to this machine without asking, never this one.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "send JSON, with the header Content-Type: application/json")
        declared = request.headers.get("content-length", "")
        self._check_size(int(declared) if declared.isdecimal() else 0)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in request.stream():
                    self._arriving += len(piece)
                    body += piece
                    self._check_size(len(body))
        except TimeoutError:
            message = f"the request did not come within {BODY_SECONDS} seconds"
            raise Refusal(408, message, headers=CLOSE) from None
        finally:
            self._arriving -= len(body)
        return bytes(body)

    def _check_size(self, size: int) -> None:
        """Raise Refusal for a body of so many bytes that is too large, alone or with the others that are coming."""
        if size > self._limits.max_body:
            raise Refusal(413, f"the request is larger than {self._limits.max_body >> 20} MiB", headers=CLOSE)
        if self._arriving > ARRIVING * self._limits.max_body:
            raise overloaded("too many large requests are coming in")


async def _whole(request: Request, work: Work, reply: Reply, prompt_tokens: int) -> Response:
    """The answer at once; the work ends when the client goes away."""

    async def leave_when_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        work.leave()

    watch = asyncio.create_task(leave_when_gone())
    try:
        async for _ in work.pieces():
            pass
    finally:
        watch.cancel()
    return JSONResponse(reply.whole(work.answer(), prompt_tokens))


async def _events(work: Work, asked: ChatRequest, question: Question) -> AsyncIterator[bytes]:
    """The answer as server-sent events. What goes wrong is an event too, as the headers are gone by then."""
    reply = Reply(asked.model)
    yield reply.piece({"role": "assistant", "content": ""})
    async for text in work.pieces():
        yield reply.piece({"content": text})
    refusal = _what_went_wrong(work)
    if refusal:
        yield event(refusal.body())
        return
    answer = work.answer()
    yield reply.piece({}, finish_reason(answer))
    if asked.stream_options.include_usage:
        yield reply.usage(answer, len(question.prompt))
    yield DONE


def _what_went_wrong(work: Work) -> Refusal | None:
    error = work.error()
    if error is None or isinstance(error, Refusal):
        return error
    log.error("an answer failed", exc_info=error)
    return _own_mistake()


class _Streamed(StreamingResponse):
    """Events of one piece of work, whose place is given back however the sending ends."""

    def __init__(self, work: Work, events: AsyncIterator[bytes]) -> None:
        # Proxies are told not to collect the pieces.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._work.leave()


def _own_mistake() -> Refusal:
    return Refusal(500, "the server made a mistake, which its log describes", kind=SERVER, code="internal_error")


def _said(refusal: Refusal) -> Response:
    return JSONResponse(refusal.body(), refusal.status, refusal.headers)


async def _refused(request: Request, refusal: Refusal) -> Response:
    return _said(refusal)


async def _no_route(request: Request, error: HTTPException) -> Response:
    """A path or method that does not exist."""
    headers = dict(error.headers or {})
    message = (
        f"{request.method} {request.url.path[:100]} is not served here; there are GET /health, GET /v1/models and "
    )
    return _said(Refusal(error.status_code, message + "POST /v1/chat/completions", code="not_found", headers=headers))


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _mistake(request: Request, error: Exception) -> Response:
    """A bug of ours: the client learns that, the log the rest."""
    return _said(_own_mistake())
