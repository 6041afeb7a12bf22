"""A command line of ftx inside an image: its output passed on as it is, signals handed in, its exit code kept."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO

from ftx.containers.command import Call, options
from ftx.containers.engine import FOREIGN, ContainerError, End, Engine, Image
from ftx.errors import FtxError, OutOfMemory

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KILLED = 137  # 128 + SIGKILL
NOT_STARTED = 255  # a first process that is not for this machine
LOOK_SECONDS = 0.1  # between two tries to reach a container that is about to run
# How what the engine says itself begins, or the first process that is not for this machine.
ENGINES_OWN = re.compile(rb"(docker|podman|Error|Error response from daemon|exec /\S+): ")


class Killed(FtxError):
    """What ran in the container was killed from outside."""

    exit_code = KILLED
    kind = "killed"


def run(call: Call, engine: Engine, image: Image) -> int:
    """Run it to its end and return the exit code of ftx inside.

    Raises OutOfMemory when the container ran out of memory, Killed, ContainerError or StorageError when it could not
    be started.
    """
    name = f"ftx-{secrets.token_hex(6)}"
    with _handing_in(engine, name):
        try:
            engine.create([f"--name={name}", *options(call, engine)])
            said = _attached(call, engine, name)
            return _code(call, engine, image, engine.end(name), said)
        finally:
            engine.remove(name)


def _attached(call: Call, engine: Engine, name: str) -> str:
    """Start the container and pass on what it says until it ends; what the engine said instead, where it said it."""
    talks = call.stdin or call.terminal
    # In a group of its own Ctrl-C does not reach it: the signal is handed in once, by us. A terminal needs no hand:
    # there Ctrl-C is a character, and the engine must be in the foreground to read it.
    child = subprocess.Popen(
        [engine.name, "start", "--attach", *(["--interactive"] if talks else []), name],
        stdin=None if talks else subprocess.DEVNULL,
        stderr=None if call.terminal else subprocess.PIPE,
        process_group=None if call.terminal else 0,
    )
    said = _passed_on(child.stderr) if child.stderr else b""
    child.wait()
    return said.decode("utf-8", "replace")


def _passed_on(stderr: IO[bytes]) -> bytes:
    """Copy the container's stderr to ours as it comes; what is all said and looks like the engine's is returned."""
    kept = b""
    passing = False
    for chunk in iter(lambda: os.read(stderr.fileno(), 1 << 16), b""):
        if not passing and ENGINES_OWN.match(chunk):
            kept += chunk
            continue
        passing = True
        sys.stderr.buffer.write(kept + chunk)
        sys.stderr.flush()
        kept = b""
    return kept


@contextmanager
def _handing_in(engine: Engine, name: str) -> Iterator[None]:
    """Hand signals to the container while the block lasts; one that comes before it runs, as soon as it does."""
    over = threading.Event()

    def deliver(number: int) -> None:
        while not (over.is_set() or engine.signal(name, number)):
            over.wait(LOOK_SECONDS)

    def handle(number: int, frame: FrameType | None) -> None:
        # A terminal that is closed asks ftx to save and end, as SIGTERM does.
        sent = signal.SIGTERM if number == signal.SIGHUP else number
        threading.Thread(target=deliver, args=(sent,), daemon=True).start()

    # An ignored hang-up stays so: `nohup` asks for it. What a script puts in the background ignores SIGINT, and
    # whoever sends one to it by name means it, as to `ftx train` itself.
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heard = [number for number in SIGNALS if not (nohup and number == signal.SIGHUP)]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        over.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _code(call: Call, engine: Engine, image: Image, end: End, said: str) -> int:
    if not end.started:
        raise engine.refusal(end.error or said, image)
    # Of a terminal all goes past us: there the code of tini that could not start ftx must do.
    foreign = call.terminal and end.code == NOT_STARTED and image.architecture not in ("", engine.architecture)
    if FOREIGN in said or foreign:
        raise engine.foreign(image)
    if end.running:
        raise ContainerError(
            f"{engine.name} let go of the container before it ended: {said.strip() or 'no reason given'}"
        )
    if end.code == KILLED:
        raise _killed(call, end)
    if said:  # ftx inside began a line as the engine does
        sys.stderr.write(said)
    return end.code


def _killed(call: Call, end: End) -> FtxError:
    resume = "; go on from the last checkpoint with --resume auto" if "train" in call.words else ""
    if end.out_of_memory:
        more = f"--memory above {call.memory}" if call.memory else "a machine with more memory"
        return OutOfMemory(f"the container ran out of memory and was killed; give {more}, or train with less{resume}")
    return Killed(
        f"the container was killed, from outside or by a machine short of memory, before it could end{resume}"
    )
