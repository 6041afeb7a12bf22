"""Programs in processes of their own, forked from one that has imported what training needs: it takes six seconds."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["forked", "ftx.cli.group", "ftx.train.fit", "ftx.fast.install", "ftx_internlm2.modeling", "peft", "accelerate"]
)


class Forked:
    """A running program, with what the tests use of subprocess.Popen; what it says goes into `said`.out and .err."""

    def __init__(self, program: str, *arguments: object, said: Path) -> None:
        self._told = [said.with_suffix(end) for end in (".out", ".err")]
        path = os.pathsep.join(p for p in sys.path if p)
        about = {**os.environ, "PYTHONPATH": path}
        given = (program, [str(argument) for argument in arguments], about, [str(one) for one in self._told])
        self._process = _CONTEXT.Process(target=_run, args=given)
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = path  # for the one they are forked from, which starts with the first of them
        try:
            self._process.start()
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """What it said, once it has ended. Raises TimeoutExpired."""
        self._process.join(timeout)
        if self._process.is_alive():
            self.kill()
            raise subprocess.TimeoutExpired("a forked program", timeout)
        out, err = (one.read_text("utf-8") for one in self._told)
        return out, err


def _run(program: str, arguments: list[str], environment: dict[str, str], told: list[str]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may be run under nohup
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(told, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv[:] = ["-c", *arguments]
    try:
        exec(program, {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()  # as Python does when it ends, and multiprocessing does not
