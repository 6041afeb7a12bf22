"""A process in LMDeploy's environment: its lines passed on, its end put in a sentence, our signals handed over."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from ftx.environments import own_variables
from ftx.errors import FtxError, OutOfMemory, RecipeError, StorageError

TAIL = 200  # lines that are kept to tell why it ended
PATIENCE = 20  # seconds a process has to end after it was asked to
# What LMDeploy, torch and CUDA print, in small letters.
NO_GPU = (
    "no cuda gpus are available",
    "found no nvidia driver",
    "cuda driver version is insufficient",
    "torch not compiled with cuda",
    "no cuda-capable device",
)
NO_MEMORY = ("out of memory", "cuda_error_out_of_memory", "no enough gpu memory")


class LMDeployError(FtxError):
    """LMDeploy ended otherwise than it should."""

    kind = "lmdeploy"


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in the block, so that what it began ends with it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Child:
    """A running process; `say` gets its lines, of both streams."""

    def __init__(self, command: Sequence[str], say: Callable[[str], None]) -> None:
        self._lines: deque[str] = deque(maxlen=TAIL)
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=own_variables(),
            start_new_session=True,  # so that Ctrl-C reaches it through us, once
        )
        self._reader = threading.Thread(target=self._read, args=(say,), daemon=True)
        self._reader.start()

    def _read(self, say: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.append(line.rstrip())
                say(line.rstrip())

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def ask_to_end(self, number: int) -> None:
        """Hand the signal over to the process and all its own."""
        if not self.ended:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def wait(self, seconds: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        code = self._process.wait(seconds)
        self._reader.join(PATIENCE)
        return code

    def stop(self) -> None:
        """End the process and all its own, kindly first."""
        self.ask_to_end(signal.SIGTERM)
        try:
            self.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.ask_to_end(signal.SIGKILL)
            self.wait()

    def failure(self, what: str, room: str) -> FtxError:
        """Why it ended, from what it said last; `room` says what would need less memory."""
        said = "\n".join(self._lines).lower()
        if any(sign in said for sign in NO_GPU):
            return LMDeployError(f"{what}: LMDeploy finds no GPU here; it needs one of NVIDIA's with its driver")
        if any(sign in said for sign in NO_MEMORY):
            return OutOfMemory(f"{what}: the GPU's memory is full; {room}")
        if "address already in use" in said:
            return RecipeError(f"{what}: the port is taken; name another with --port")
        if "no space left on device" in said:
            return StorageError(f"{what}: the disk is full; nothing of it was kept")
        last = next((line.strip() for line in reversed(self._lines) if line.strip()), "it said nothing")
        return LMDeployError(f"{what}: {last}")
