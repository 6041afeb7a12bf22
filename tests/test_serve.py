"""ftx serve: OpenAI's own client and plain HTTP against real servers over tiny real models."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch
from PIL import Image

from conftest import TINY, write_rows
from ftx.data.conversation import Message
from ftx.errors import RecipeError
from ftx.plugins import load_registry
from ftx.serve import checks
from ftx.serve.checks import api_key
from ftx.talk import Sampling, Talk, open_talk
from ftx_quickstart.corpus import probes
from ftx_quickstart.first_run import BASE
from ftx_quickstart.picture_run import BASE as VISION_BASE
from ftx_quickstart.scenes import draw_scene, picture
from serving import NAME, Watched, client, serving, user
from test_train import plan_for

KEY = "sk-test-1234"
KITE = "What color is the kite?"


@pytest.fixture(scope="module")
def talk() -> Talk:
    return open_talk(BASE, load_registry("none"))


@pytest.fixture(scope="module")
def url(talk: Talk) -> Iterator[str]:
    with serving(talk) as address:
        yield address


@pytest.fixture(scope="module")
def endless() -> Talk:
    """Random weights, which talk on until they are stopped."""
    talk = open_talk(TINY, load_registry("none"))
    talk.stop_ids = [630]
    return talk


@pytest.fixture(scope="module")
def seeing() -> Talk:
    return open_talk(VISION_BASE, load_registry("none"))


@pytest.fixture(scope="module")
def seeing_url(seeing: Talk) -> Iterator[str]:
    with serving(seeing) as address:
        yield address


def ask_plainly(url: str, messages: Any, **more: Any) -> Any:
    return client(url).chat.completions.create(model=NAME, messages=messages, **more)


def test_the_answer_is_that_of_chat(ftx: Any, url: str) -> None:
    said = ftx("chat", BASE, "--once", KITE).out.removesuffix("\n")
    reply = ask_plainly(url, user(KITE))
    assert reply.choices[0].message.content == said
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == NAME


def test_a_whole_conversation_with_a_system_message_reaches_the_model(talk: Talk, url: str) -> None:
    said = [("system", "Answer in Chinese."), ("user", "你好"), ("assistant", "你好！"), ("user", KITE)]
    ours = [Message(role, text) for role, text in said]  # type: ignore[arg-type]
    expected = talk.answer(ours, Sampling())
    reply = ask_plainly(url, [{"role": role, "content": text} for role, text in said])
    assert reply.choices[0].message.content == expected.text
    assert reply.usage.prompt_tokens == len(talk.prompt(ours))
    assert reply.usage.completion_tokens == expected.tokens
    developer = ask_plainly(url, [{"role": "developer", "content": said[0][1]}, *user(KITE)])
    assert developer.usage == ask_plainly(url, [{"role": "system", "content": said[0][1]}, *user(KITE)]).usage


def test_an_answer_can_be_sent_back_as_the_client_got_it(url: str) -> None:
    first = ask_plainly(url, user(KITE)).choices[0].message
    assert ask_plainly(url, [*user(KITE), first.model_dump(), *user("And the sky?")]).choices[0].message.content
    silent = {"role": "assistant", "content": ""}
    assert ask_plainly(url, [*user(KITE), silent, *user(KITE)]).choices[0].message.content


def test_a_streamed_answer_is_the_same(url: str) -> None:
    whole = ask_plainly(url, user("天空是什么颜色的？"))
    chunks = list(ask_plainly(url, user("天空是什么颜色的？"), stream=True, stream_options={"include_usage": True}))
    pieces = [c.choices[0].delta.content for c in chunks if c.choices]
    assert "".join(piece or "" for piece in pieces) == whole.choices[0].message.content
    assert sum(bool(piece) for piece in pieces) > 2
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_cuts_the_answer_and_says_so(name: str, url: str) -> None:
    reply = ask_plainly(url, user(KITE), **{name: 2})
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 2
    streamed = list(ask_plainly(url, user(KITE), stream=True, **{name: 2}))
    assert streamed[-1].choices[0].finish_reason == "length"


def test_the_server_s_own_limit_holds(endless: Talk) -> None:
    with serving(endless, max_new_tokens=5) as url:
        reply = ask_plainly(url, user("a"), max_tokens=5000)
    assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (5, "length")


@pytest.mark.parametrize("stop", ["n.", ["zzz", "is gr"], "Italy"])
def test_a_stop_word_ends_the_answer_before_it(stop: Any, url: str) -> None:
    whole = ask_plainly(url, user(KITE)).choices[0].message.content
    words = [stop] if isinstance(stop, str) else stop
    expected = min((whole.split(word)[0] for word in words), key=len)
    assert expected != whole
    reply = ask_plainly(url, user(KITE), stop=stop)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (expected, "stop")
    pieces = [c.choices[0].delta.content or "" for c in ask_plainly(url, user(KITE), stop=stop, stream=True)]
    assert "".join(pieces) == expected


def test_sampling_is_seeded(url: str) -> None:
    def sampled(seed: int | None) -> str:
        given = {} if seed is None else {"seed": seed}
        reply = ask_plainly(url, user("Tell me."), temperature=2, top_p=0.99, max_tokens=20, **given)
        return str(reply.choices[0].message.content)

    assert sampled(1) == sampled(1)
    assert len({sampled(None) for _ in range(4)}) > 1
    greedy = ask_plainly(url, user(KITE)).choices[0].message.content
    assert ask_plainly(url, user(KITE), temperature=1e-40, top_p=1e-40).choices[0].message.content == greedy


def test_the_prompt_s_ids_can_be_asked_for(talk: Talk, url: str) -> None:
    asked = {"model": NAME, "messages": user(KITE)}
    answer = httpx2.post(url.removesuffix("v1") + "tokenize", json=asked).json()
    assert answer["tokens"] == talk.prompt([Message("user", KITE)])
    assert answer["count"] == ask_plainly(url, user(KITE)).usage.prompt_tokens
    assert answer["max_model_len"] == 2048
    assert refused(httpx2.post(url.removesuffix("v1") + "tokenize", json={}))[0] == 400


def test_models_and_health(url: str) -> None:
    assert [model.id for model in client(url).models.list()] == [NAME]
    assert client(url).models.retrieve(NAME).owned_by == "ftx"
    assert httpx2.get(url.removesuffix("v1") + "health").json() == {"status": "ok"}
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-9' here; this server has 'tiny'"):
        client(url).models.retrieve("gpt-9")


def post(url: str, body: Any = None, **more: Any) -> httpx2.Response:
    """The body as JSON, or bytes as they are."""
    given = {"content": body} if isinstance(body, bytes) else {"json": body}
    headers = {"Content-Type": "application/json", **more.pop("headers", {})}
    return httpx2.post(f"{url}/chat/completions", headers=headers, timeout=60, **given, **more)


def refused(response: httpx2.Response) -> tuple[int, str | None, str]:
    """Status, code and sentence of a refusal, which has OpenAI's form and no trace of our insides."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    for inside in ("Traceback", ".py", "/tmp", "ftx-serve-", "pydantic"):
        assert inside not in response.text
    return response.status_code, error["code"], error["message"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": None}, "'model' is missing"),
        ({"messages": None}, "'messages' is missing"),
        ({"messages": []}, "'messages': list should have at least 1 item"),
        ({"temprature": 1}, "did you mean 'temperature'?"),
        ({"temperature": "warm"}, "'temperature': input should be a valid number"),
        ({"temperature": -1}, "'temperature'"),
        ({"top_p": 0}, "'top_p'"),
        ({"max_tokens": 0}, "'max_tokens'"),
        ({"seed": 2**70}, "'seed'"),
        ({"n": 2}, "'n': this server cannot do it; leave it out"),
        ({"tools": [{"type": "function"}]}, "'tools': this server cannot do it"),
        ({"response_format": {"type": "json_object"}}, "'response_format': this server cannot do it"),
        ({"stop": ""}, "stop words have 1 to 256 characters"),
        ({"messages": user(3)}, "'messages.0.content': input should be a valid string"),
        ({"messages": user([{"type": "text"}])}, "'messages.0.content.0.text' is missing"),
        ({"messages": user([{"type": "audio"}])}, "'audio'"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "'messages.0.role'"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "the last message is not the user's"),
        ({"messages": user("a") + user("b")}, "two user messages stand in a row"),
        ({"messages": [*user("a"), {"role": "system", "content": "b"}, *user("c")]}, "system message"),
        ({"messages": user("a\x00b")}, "NUL"),
    ],
)
def test_a_wrong_request_is_refused_with_a_sentence(change: dict[str, Any], sentence: str, url: str) -> None:
    asked = {"model": NAME, "messages": user("a"), **change}
    status, _, message = refused(post(url, {key: value for key, value in asked.items() if value is not None}))
    assert status == 400
    assert sentence in message


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"model": "tiny", "messages": [{"role": "\\ud800"}]}']
)
def test_a_body_that_is_no_request_is_refused(body: bytes, url: str) -> None:
    assert refused(post(url, body))[0] == 400


def test_fields_that_ask_for_nothing_are_taken(url: str) -> None:
    neutral = {"n": 1, "presence_penalty": 0, "frequency_penalty": 0, "logprobs": False, "user": "u", "tools": None}
    reply = ask_plainly(url, user(KITE), response_format={"type": "text"}, **neutral)
    assert reply.choices[0].message.content


def test_unknown_models_paths_and_types_are_refused(url: str) -> None:
    asked = {"model": "gpt-9", "messages": user("a")}
    assert refused(post(url, asked))[:2] == (404, "model_not_found")
    assert refused(httpx2.get(f"{url}/nothing"))[0] == 404
    assert refused(httpx2.get(f"{url}/chat/completions"))[0] == 405
    assert refused(post(url, asked, headers={"Content-Type": "text/plain"}))[0] == 415


def test_a_large_body_is_refused_and_the_server_lives(talk: Talk) -> None:
    with serving(talk, max_body=1 << 20) as url:
        status, _, message = refused(post(url, {"model": NAME, "messages": user("a" * (2 << 20))}))
        assert (status, message) == (413, "the request is larger than 1 MiB")
        assert ask_plainly(url, user(KITE)).choices[0].message.content


def test_a_key_is_asked_for(talk: Talk) -> None:
    with serving(talk, key=KEY) as url:
        for wrong in ("none", KEY + "x", "ключ"):
            headers = {"Authorization": f"Bearer {wrong}".encode()}
            response = post(url, b"", headers=headers)
            assert refused(response) == (401, "invalid_api_key", "the API key is wrong")
            assert KEY not in response.text
        assert refused(post(url, b""))[:2] == (401, "invalid_api_key")
        assert refused(post(url, b"", headers={"Authorization": f"Basic {KEY}"}))[0] == 401
        assert refused(httpx2.get(f"{url}/models"))[0] == 401
        with pytest.raises(openai.AuthenticationError):
            client(url).models.list()
        assert [model.id for model in client(url, KEY).models.list()] == [NAME]
        assert httpx2.get(url.removesuffix("v1") + "health").status_code == 200


def test_a_question_of_100_000_characters_is_refused_while_another_is_answered(endless: Talk) -> None:
    with serving(endless) as url:
        running = ask_plainly(url, user("a"), stream=True)
        next(iter(running))
        for question in ("a" * 100_000, "Was ist das? " * 8_000, "好" * 100_000):
            status, code, message = refused(post(url, {"model": NAME, "messages": user(question)}))
            assert (status, code) == (400, "context_length_exceeded")
            assert "context 2,048" in message
        running.close()


def test_an_answer_ends_where_the_context_does(endless: Talk) -> None:
    with serving(endless, max_new_tokens=5000) as url:
        spare = endless.max_positions - len(endless.prompt([Message("user", "")]))
        reply = ask_plainly(url, user(" a" * (spare - 9)))
    assert reply.usage.total_tokens == endless.max_positions
    assert reply.choices[0].finish_reason == "length"


def png(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def data_url(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def shown(*urls: str, text: str = "What is in the picture?") -> list[dict[str, Any]]:
    return user([*({"type": "image_url", "image_url": {"url": url}} for url in urls), {"type": "text", "text": text}])


def test_pictures_are_seen_as_in_chat(ftx: Any, seeing_url: str, tmp_path: Path) -> None:
    for number, question in enumerate(["What is in the picture?", "图里有什么？"]):
        content = png(picture(draw_scene(random.Random(number))))
        (tmp_path / "seen.png").write_bytes(content)
        said = ftx("chat", VISION_BASE, "--image", tmp_path / "seen.png", "--once", question).out
        reply = ask_plainly(seeing_url, shown(data_url(content), text=question))
        assert reply.choices[0].message.content == said.removesuffix("\n")
        # text first, as many clients send it, shows the same
        turned = user(list(reversed(shown(data_url(content), text=question)[0]["content"])))
        assert ask_plainly(seeing_url, turned).usage == reply.usage
        pieces = ask_plainly(seeing_url, turned, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in pieces) == reply.choices[0].message.content


def test_two_pictures_and_two_turns(seeing_url: str) -> None:
    first, second = (data_url(png(Image.new("RGB", (112, 112), colour))) for colour in ("red", "blue"))
    one = ask_plainly(seeing_url, shown(first)).choices[0].message.content
    later = [*shown(first), {"role": "assistant", "content": one or "a"}, *shown(second)]
    assert ask_plainly(seeing_url, later, max_tokens=4).usage.prompt_tokens > 0
    both = ask_plainly(seeing_url, shown(first, second), max_tokens=4)
    marked = ask_plainly(
        seeing_url, shown(first, second, text="<image>\n<image>\nWhat is in the picture?"), max_tokens=4
    )
    assert both.usage == marked.usage
    wrong = post(seeing_url, {"model": NAME, "messages": shown(first, text="<image> and <image>")})
    assert "2 <image> marks and 1 images" in refused(wrong)[2]


def broken_pictures() -> dict[str, str]:
    whole = png(Image.effect_noise((64, 64), 80))
    return {
        "text": data_url(b"this is no picture"),
        "empty": data_url(b""),
        "cut": data_url(whole[: len(whole) // 2]),
        "damaged": data_url(whole[:60] + b"\0" * 40 + whole[100:]),
        "not base64": "data:image/png;base64,%%%",
        "network": "http://127.0.0.1:9/a.png",
        "disk": "file:///etc/passwd",
        "path": "/etc/passwd",
        "postscript": data_url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "long": data_url(png(Image.new("RGB", (3000, 2)))),
        "huge": data_url(png(Image.new("1", (16_000, 8_000)))),
    }


@pytest.mark.parametrize("kind", list(broken_pictures()))
def test_a_broken_picture_is_refused(kind: str, seeing_url: str) -> None:
    status, _, message = refused(post(seeing_url, {"model": NAME, "messages": shown(broken_pictures()[kind])}))
    assert status == 400
    assert "picture" in message


def test_too_many_pixels_together_are_refused(seeing_url: str) -> None:
    large = data_url(png(Image.new("1", (8_000, 8_000))))
    answer = post(seeing_url, {"model": NAME, "messages": shown(large, large)})
    assert "more than 100,000,000 pixels together" in refused(answer)[2]
    many = post(seeing_url, {"model": NAME, "messages": shown(*[data_url(b"a")] * 65)})
    assert "65 pictures; 64 are allowed" in refused(many)[2]


def test_a_picture_for_a_model_that_reads_text_is_refused(url: str) -> None:
    answer = post(url, {"model": NAME, "messages": shown(data_url(png(Image.new("RGB", (9, 9)))))})
    assert refused(answer)[2] == "this model reads text alone; leave the pictures out"


def test_a_second_question_while_the_first_runs(endless: Talk) -> None:
    expected = [endless.answer([Message("user", text)], Sampling(20)).text for text in ("a", "b")]
    with serving(endless) as url:
        first = ask_plainly(url, user("a"), stream=True, max_tokens=20)
        pieces = [next(first).choices[0].delta.content or ""]
        assert ask_plainly(url, user("b"), max_tokens=20).choices[0].message.content == expected[1]
        assert "".join(pieces + [c.choices[0].delta.content or "" for c in first]) == expected[0]


@pytest.fixture
def watched(endless: Talk, monkeypatch: pytest.MonkeyPatch) -> Watched:
    seen = Watched(endless)
    monkeypatch.setattr(endless, "answer", seen)
    return seen


def test_a_stream_that_is_closed_stops_the_answer(watched: Watched) -> None:
    with serving(watched.talk, max_new_tokens=2000) as url:
        stream = ask_plainly(url, user("a"), stream=True)
        for _ in range(3):
            next(stream)
        stream.close()
        assert ask_plainly(url, user("b"), max_tokens=1).usage.completion_tokens == 1
    assert len(watched.answers) == 2
    assert watched.answers[0].tokens < 1900


def request_bytes(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return request_head(len(content)) + content


def request_head(length: int) -> bytes:
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode()


def address_of(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.removesuffix("/v1").rpartition(":")[2])


def begun(url: str, length: int, body: bytes = b"") -> socket.socket:
    """The connection of a request that says how long its body is, and sends this much of it."""
    connection = socket.create_connection(address_of(url), timeout=20)
    connection.sendall(request_head(length) + body)
    return connection


def test_who_sends_no_body_stands_in_nobody_s_way(talk: Talk) -> None:
    with serving(talk, max_queue=0) as url, contextlib.ExitStack() as slow:
        for _ in range(3):
            slow.enter_context(begun(url, 100))
        assert ask_plainly(url, user(KITE)).choices[0].message.content


def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(url: str) -> None:
    with begun(url, 10 << 30) as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_bodies_that_come_are_bounded_together(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftx.serve.app.ARRIVING", 1)
    with serving(talk, max_body=1000) as url:
        with begun(url, 999, b"x" * 950):
            said = (post(url, {"model": NAME, "messages": user("a" * 100)}) for _ in range(100))
            answer = next(answer for answer in said if answer.status_code == 429)
            assert refused(answer)[2] == "too many large requests are coming in; ask again in a moment"
        assert ask_when_free(url, user(KITE)).choices


def test_a_client_that_goes_away_stops_its_answer(watched: Watched) -> None:
    with serving(watched.talk, max_new_tokens=2000) as url:
        with socket.create_connection(address_of(url)) as gone:
            gone.sendall(request_bytes({"model": NAME, "messages": user("a")}))
            assert watched.began.wait(60)
        assert ask_plainly(url, user("b"), max_tokens=1).usage.completion_tokens == 1
    assert len(watched.answers) == 2
    assert watched.answers[0].tokens < 1900


def test_one_who_goes_away_while_waiting_is_never_asked(watched: Watched) -> None:
    with serving(watched.talk, max_new_tokens=2000, max_queue=1) as url:
        running = ask_plainly(url, user("a"), stream=True)
        next(running)
        waiting = ask_plainly(url, user("b"), stream=True)
        with pytest.raises(openai.RateLimitError):
            ask_plainly(url, user("c"))
        waiting.close()
        running.close()
        assert ask_when_free(url, user("d")).usage.completion_tokens == 1
    assert len(watched.answers) == 2


def ask_when_free(url: str, messages: Any) -> Any:
    """Ask as the client does by itself: again after Retry-After."""
    patient = openai.OpenAI(base_url=url, api_key="none", max_retries=5)
    return patient.chat.completions.create(model=NAME, messages=messages, max_tokens=1)


def test_too_many_questions_are_told_when_to_come_again(watched: Watched) -> None:
    with serving(watched.talk, max_new_tokens=2000, max_queue=0) as url:
        running = ask_plainly(url, user("a"), stream=True)
        next(running)
        response = post(url, {"model": NAME, "messages": user("b")})
        assert refused(response)[:2] == (429, "queue_full")
        assert int(response.headers["Retry-After"]) > 0
        running.close()
        assert ask_when_free(url, user("b")).usage.completion_tokens == 1


def test_fifty_clients_at_once_get_each_their_own_answer_while_others_leave(talk: Talk) -> None:
    questions = [probe.question for probe in probes()]
    questions = (questions * 50)[:50]
    expected = {one: talk.answer([Message("user", one)], Sampling()).text for one in set(questions)}
    assert len(set(expected.values())) > 10

    async def one(asker: openai.AsyncOpenAI, number: int, question: str) -> str:
        messages: Any = user(question)
        if number % 2:
            reply = await asker.chat.completions.create(model=NAME, messages=messages)
            return reply.choices[0].message.content or ""
        stream = await asker.chat.completions.create(model=NAME, messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def leave(asker: openai.AsyncOpenAI) -> None:
        stream = await asker.chat.completions.create(model=NAME, messages=user("你好"), stream=True)
        await anext(stream)
        await stream.close()

    async def all_at_once(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as asker:
            leaving = asyncio.gather(*(leave(asker) for _ in range(10)))
            answers = await asyncio.gather(*(one(asker, *numbered) for numbered in enumerate(questions)))
            await leaving
            return answers

    with serving(talk) as url:
        answers = asyncio.run(all_at_once(url))
    assert answers == [expected[question] for question in questions]


def fails(error: Exception) -> Callable[..., Any]:
    def answer(*_: Any) -> Any:
        raise error

    return answer


def test_short_memory_is_said_and_survived(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(talk) as url:
        with monkeypatch.context() as patch:
            patch.setattr(talk, "answer", fails(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")))
            asked = {"model": NAME, "messages": user("a")}
            assert refused(post(url, asked))[:2] == (503, "out_of_memory")
            with pytest.raises(openai.APIError, match="not enough memory"):
                list(ask_plainly(url, user("a"), stream=True))
        assert ask_plainly(url, user(KITE)).choices[0].message.content


def test_a_bug_shows_no_trace(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(talk) as url:
        with monkeypatch.context() as patch:
            patch.setattr(talk, "answer", fails(KeyError("secret of ours")))
            response = post(url, {"model": NAME, "messages": user("a")})
            assert refused(response)[:2] == (500, "internal_error")
            assert "secret" not in response.text
            streamed = post(url, {"model": NAME, "messages": user("a"), "stream": True})
            assert "internal_error" in streamed.text
            assert "secret" not in streamed.text
            assert "[DONE]" not in streamed.text
        assert ask_plainly(url, user(KITE)).choices[0].message.content


def test_a_taken_port_is_said_before_anything_is_loaded(ftx: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = ftx("serve", BASE, "--port", port)
    assert result.code == 2
    assert result.err == (
        f"ftx: --port {port} on 127.0.0.1 cannot be had: address already in use; give another --port, or 0 for any "
        "that is free\n"
    )


def test_what_cannot_be_served_is_refused_with_a_sentence(ftx: Any, tiny: Path, rows: Path, tmp_path: Path) -> None:
    def sentence(*arguments: Any) -> str:
        result = ftx("serve", *arguments, "--port", 0)
        assert result.code == 2
        assert result.err.count("\n") == 1
        return str(result.err)

    assert "does not exist or is no folder" in sentence(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in sentence(tmp_path / "empty")
    assert "--host no.such.host.invalid is no address" in sentence(BASE, "--host", "no.such.host.invalid")
    (tmp_path / "key").write_text("\n")
    assert "holds no key" in sentence(BASE, "--api-key-file", tmp_path / "key")
    assert "cannot be read" in sentence(BASE, "--api-key-file", tmp_path / "nokey")
    base = shutil.copytree(tiny, tmp_path / "base")
    assert ftx("train", "--model", base, "--data", rows, "--max-steps", 1, "--out", tmp_path / "run").code == 0
    shutil.rmtree(base)
    assert f"the base model {base} is not there; give --base FOLDER" in sentence(tmp_path / "run")
    assert "the base model nobase is not there" in sentence(tmp_path / "run" / "adapter", "--base", "nobase")


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FTX_API_KEY", raising=False)
    assert api_key(None) is None
    monkeypatch.setenv("FTX_API_KEY", KEY)
    assert api_key(None) == KEY
    (tmp_path / "key").write_text("of-the-file\n")
    assert api_key(tmp_path / "key") == "of-the-file"
    (tmp_path / "key").write_text("k" * 5000)
    with pytest.raises(RecipeError, match="holds no key"):
        api_key(tmp_path / "key")
    monkeypatch.setenv("FTX_API_KEY", "")
    with pytest.raises(RecipeError, match="FTX_API_KEY holds no key"):
        api_key(None)


def test_missing_packages_are_named(ftx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PACKAGES", ("starlette", "no_such_server"))
    result = ftx("serve", BASE)
    assert (result.code, result.err) == (2, "ftx: ftx serve needs no_such_server; type: pip install 'ftx[serve]'\n")


def without_stop(folder: Path) -> None:
    """Take every stop token out of a model's folder."""
    for name in ("generation_config.json", "special_tokens_map.json", "tokenizer_config.json"):
        values = json.loads((folder / name).read_text("utf-8"))
        for key in ("eos_token", "eos_token_id", "pad_token", "pad_token_id"):
            values.pop(key, None)
        if "chat_template" in values:
            values["chat_template"] = (
                "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
                "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
            )
            values["eos_token"] = None
        (folder / name).write_text(json.dumps(values), "utf-8")


def test_a_model_without_a_stop_token_is_refused(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "endless")
    without_stop(folder)
    result = ftx("serve", folder, "--port", 0)
    assert result.code == 2
    assert "has no stop token, so its answers would never end; put eos_token_id into its" in result.err


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Start real processes of `ftx serve` and give back each with its address."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: Any, **environment: str) -> tuple[subprocess.Popen[str], str]:
        roots = [str(Path(__file__).parent.parent / name) for name in ("core", "plugins")]
        command = [sys.executable, "-m", "ftx", "serve", *map(str, arguments), "--port", "0", "--json"]
        started = subprocess.Popen(
            command,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(roots)},
        )
        running.append(started)
        assert started.stdout
        return started, json.loads(started.stdout.readline())["url"]

    yield start
    for one in running:
        one.kill()
        one.communicate()


def test_sigterm_lets_the_running_answer_end(process: Any, endless: Talk) -> None:
    server, url = process(TINY, "--name", NAME, "--grace", 60, FTX_API_KEY=KEY)
    stream = client(url, KEY).chat.completions.create(
        model=NAME, messages=user("a"), stream=True, max_tokens=200, stream_options={"include_usage": True}
    )
    next(stream)
    server.send_signal(signal.SIGTERM)
    chunks = list(stream)
    assert chunks[-1].usage.completion_tokens > 1
    out, err = server.communicate(timeout=60)
    assert (server.returncode, err) == (0, "")
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["ended"]
    with pytest.raises(OSError):
        socket.create_connection(address_of(url)).close()


def test_sigint_ends_what_takes_longer_than_the_grace_time(process: Any) -> None:
    server, url = process(TINY, "--name", NAME, "--grace", 0, "--max-new-tokens", 2000)
    with socket.create_connection(address_of(url)) as held:
        held.sendall(request_bytes({"model": NAME, "messages": user("a"), "stream": True}))
        assert b"200 OK" in held.recv(4096)
        server.send_signal(signal.SIGINT)
        _, err = server.communicate(timeout=60)
        with held.makefile("rb") as rest:
            events = rest.read()
    assert (server.returncode, err) == (0, "")
    assert b"server_ending" in events
    assert b"[DONE]" not in events


def test_curl_streams(process: Any) -> None:
    server, url = process(BASE, "--name", NAME)
    asked = json.dumps({"model": NAME, "messages": user(KITE), "stream": True})
    command = ["curl", "-sN", f"{url}/chat/completions", "-H", "Content-Type: application/json", "-d", asked]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    events = [line.removeprefix("data: ") for line in said.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert "".join(json.loads(one)["choices"][0]["delta"].get("content", "") for one in events[:-1])
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=60)
    assert server.returncode == 0


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained whole model that transformers reads without code from its folder."""
    from ftx.train.fit import fit

    folder = tmp_path_factory.mktemp("native")
    rows = write_rows(folder / "rows.jsonl", 4)
    llama = TINY.parent / "llama_tiny"
    fit(plan_for(llama, rows, folder / "cats", method="full", template="llama2_chat", train__max_steps=1))
    return folder / "cats"


def test_vllm_s_command_brings_template_stop_ids_and_greed(ftx: Any, native: Path) -> None:
    printed = ftx("serve", native, "--print", "vllm", "--port", 9000)
    assert printed.code == 0, printed.err
    words = shlex.split(printed.out)
    given = dict(zip(words[3::2], words[4::2], strict=True))
    folder = native / "model"
    assert words[:3] == ["vllm", "serve", str(folder)]
    assert given == {
        "--served-model-name": "cats",
        "--host": "127.0.0.1",
        "--port": "9000",
        "--max-model-len": str(json.loads((folder / "config.json").read_text())["max_position_embeddings"]),
        "--chat-template": str(folder / "chat_template.jinja"),
        "--generation-config": str(folder),
        "--override-generation-config": '{"temperature": 0}',
    }
    assert (folder / "chat_template.jinja").is_file()
    assert "--served-model-name cats " in ftx("serve", folder, "--print", "vllm").out
    (event,) = ftx("serve", folder, "--print", "vllm", "--port", 9000, "--json").events
    assert event == {"event": "printed", "text": printed.out}


def test_a_dockerfile_is_pinned_unprivileged_and_healthy(ftx: Any, native: Path, tmp_path: Path) -> None:
    assert ftx("serve", native, "--print", "dockerfile", "--out", tmp_path / "Dockerfile").code == 0
    lines = [line for line in (tmp_path / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    steps = [line.split(" ", 1) for line in lines]
    assert [name for name, _ in steps] == [
        *("FROM", "RUN", "COPY", "USER", "ENV", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD")
    ]
    said = dict(steps)
    assert re.fullmatch(r"vllm/vllm-openai:v\d+\.\d+\.\d+", said["FROM"])
    assert said["USER"] == "serve"
    assert "--chat-template" in (entry := json.loads(said["ENTRYPOINT"]))
    assert entry[:3] == ["vllm", "serve", "/model"]
    assert "/health" in said["HEALTHCHECK"]
    assert "KEY" not in "".join(lines)
    assert ftx("serve", native, "--print", "dockerfile").out == (tmp_path / "Dockerfile").read_text()


def test_what_vllm_could_not_serve_alike_is_refused(ftx: Any, native: Path, tiny: Path, tmp_path: Path) -> None:
    def sentence(path: Path) -> str:
        result = ftx("serve", path, "--print", "vllm")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        return str(result.err)

    assert "only by running code from the folder" in (said := sentence(tiny)) and "--layout transformers" in said
    assert "ftx export" in sentence(VISION_BASE)
    assert "does not exist" in sentence(tmp_path / "none")
    assert "has no chat template" in sentence(TINY.parent / "llama_tiny")
    plain = tmp_path / "plain"
    shutil.copytree(native / "model", plain, ignore=shutil.ignore_patterns("ftx.json"))
    (plain / "generation_config.json").write_text("{}")
    assert "does not list the stop ids [2" in sentence(plain)
    (plain / "adapter_config.json").write_text("{}")
    assert "merge it first" in sentence(plain)
    assert "--out goes with --print" in ftx("serve", native, "--out", tmp_path / "x").err


@pytest.mark.parametrize(
    ("printed", "flags", "sentence"),
    [
        ("vllm", ["--template", "chatml"], "vLLM serves a whole model with the template that lies in its folder"),
        ("vllm", ["--base", "b"], "--base does not go with --print vllm"),
        ("vllm", ["--api-key-file", "k"], "reads its key from the environment's VLLM_API_KEY"),
        ("vllm", ["--max-new-tokens", "9"], "it is an option of ftx's own server"),
        ("dockerfile", ["--port", "9000"], "when it is run (docker run -p)"),
    ],
)
def test_what_is_printed_ignores_no_option(
    printed: str, flags: list[str], sentence: str, ftx: Any, native: Path
) -> None:
    result = ftx("serve", native, "--print", printed, *flags)
    assert (result.code, result.err.count("\n"), sentence in result.err) == (2, 1, True)
