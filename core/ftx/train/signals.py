"""SIGINT, SIGTERM and SIGHUP ask for a stop after the step; a second SIGINT stops at once.

SIGHUP comes of a terminal or a connection that is closed; where it is ignored, as under nohup, it stays so. A second
SIGTERM asks for nothing more: `timeout`, process groups and runners of pipelines pass one on twice.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """`asked` turns true at the first signal."""

    def __init__(self) -> None:
        self.asked = False
        self._by_hand = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._by_hand:
            raise KeyboardInterrupt
        self._by_hand = self._by_hand or number == signal.SIGINT
        self.asked = True


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Catch the signals inside the block; outside the main thread, where none arrive, do nothing."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heard = [number for number in SIGNALS if not (nohup and number == signal.SIGHUP)]
    before = {number: signal.signal(number, stop.handle) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
