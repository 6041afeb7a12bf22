"""Time to the first token of `ftx serve` over HTTP, against transformers' `generate` with a streamer, on one model.

python benchmarks/serve_first_token.py

All begin with the messages. "transformers token" ends when a streamer is handed the first id, "transformers text" when
its TextIteratorStreamer gives text out, which it holds back until a word is whole, "ftx serve" when the first text has
come over the connection. They take turns, so that all meet the same machine.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import httpx2
from transformers import TextIteratorStreamer

from ftx.artifact import versions
from ftx.plugins import load_registry
from ftx.talk import Talk, open_talk
from ftx_quickstart.first_run import BASE

REPEATS = 40
WARM = 5
TOKENS = 8  # of an answer
QUESTION = "What color is the kite?"
QUESTIONS = {"short": QUESTION, "long": "The kite is red. The sky is blue. " * 60 + QUESTION}
Messages = list[dict[str, Any]]


class FirstToken:
    """A streamer that knows when it was handed the first id after the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is kept back."""


def plain_token(talk: Talk, messages: Messages) -> float:
    """Seconds to the first id of transformers alone."""
    start = time.perf_counter()
    streamer = FirstToken()
    talk.model.generate(**_given(talk, messages), streamer=streamer)
    return streamer.times[1] - start


def plain_text(talk: Talk, messages: Messages) -> float:
    """Seconds to the first text of transformers alone, as its documentation streams."""
    start = time.perf_counter()
    streamer = TextIteratorStreamer(talk.tokenizer.hf, skip_prompt=True, skip_special_tokens=True)
    given = {**_given(talk, messages), "streamer": streamer}
    thread = Thread(target=talk.model.generate, kwargs=given)
    thread.start()
    next(text for text in streamer if text)
    seconds = time.perf_counter() - start
    thread.join()
    return seconds


def _given(talk: Talk, messages: Messages) -> dict[str, Any]:
    inputs = talk.tokenizer.hf.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    return {**inputs, "max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": talk.stop_ids}


def served(client: httpx2.Client, messages: Messages) -> float:
    """Seconds to the first text over HTTP, on a connection that is kept."""
    asked = {"model": "base", "messages": messages, "stream": True, "max_tokens": TOKENS}
    start = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=asked) as response:
        lines = response.iter_lines()
        next(line for line in lines if _text(line))
        seconds = time.perf_counter() - start
        list(lines)
    return seconds


def _text(line: str) -> str:
    if not line.startswith("data: {"):
        return ""
    choices = json.loads(line.removeprefix("data: "))["choices"]
    return str(choices[0]["delta"].get("content") or "")


def turns(ways: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Times of each way in milliseconds, one after the other, after some that do not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM + REPEATS):
        for name, way in ways.items():
            seconds = way()
            if number >= WARM:
                times[name].append(seconds * 1000)
    return times


def main() -> None:
    talk = open_talk(BASE, load_registry("none"))
    command = [sys.executable, "-m", "ftx", "serve", str(BASE), "--name", "base", "--port", "0", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert server.stdout
    url = json.loads(server.stdout.readline())["url"].removesuffix("/v1")
    print(platform.platform(), versions())
    print(f"{'prompt':8}{'tokens':>8}  {'way':20}{'median ms':>10}{'best ms':>10}{'worst ms':>10}")
    with httpx2.Client(base_url=url, timeout=60) as client:
        for name, question in QUESTIONS.items():
            messages: Messages = [{"role": "user", "content": question}]
            tokens = len(talk.tokenizer.hf.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
            ways = {
                "transformers token": lambda messages=messages: plain_token(talk, messages),
                "transformers text": lambda messages=messages: plain_text(talk, messages),
                "ftx serve": lambda messages=messages: served(client, messages),
            }
            for way, times in turns(ways).items():
                middle = statistics.median(times)
                print(f"{name:8}{tokens:8}  {way:20}{middle:10.1f}{min(times):10.1f}{max(times):10.1f}")
    server.terminate()
    server.wait()


if __name__ == "__main__":
    main()
