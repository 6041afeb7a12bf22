"""Those who ask stand in line: one is answered at a time, who came first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from refused import Refused

WAITING = 64  # questions in the line; those after them are told to come again


class Line:
    """The line, asked by one thread for each question."""

    def __init__(self) -> None:
        self._moved = threading.Condition()
        self._tickets = []

    def __len__(self) -> int:
        return len(self._tickets)

    @contextmanager
    def place(self) -> Iterator[object]:
        """A ticket at the end of the line, until the block ends. Raises Refused when too many wait."""
        ticket = object()
        with self._moved:
            if len(self._tickets) > WAITING:
                raise Refused("Too many people ask at once; ask again in a minute.")
            self._tickets.append(ticket)
        try:
            yield ticket
        finally:
            with self._moved:
                self._tickets.remove(ticket)
                self._moved.notify_all()

    def before(self, ticket: object, seconds: float) -> int:
        """How many come before the ticket; waits up to `seconds` for its turn, which is 0."""
        with self._moved:
            self._moved.wait_for(lambda: self._tickets[0] is ticket, seconds)
            return self._tickets.index(ticket)
