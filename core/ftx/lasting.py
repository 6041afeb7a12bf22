"""Standard output and error that a command outlives: once one cannot be written, what is said there goes nowhere.

So a run that lost its reader, or whose log has filled a disk, still saves what it was started for.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_outputs: dict[str, Lasting] = {}


class Lasting(io.FileIO):
    """A file whose `lost` is the error of the first write that failed; later ones are not tried."""

    lost: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes


def outlast() -> None:
    """Let this process outlive its standard output and error."""
    sys.stdout = _lasting("stdout", sys.stdout)
    sys.stderr = _lasting("stderr", sys.stderr)


def output_lost() -> OSError | None:
    """Why standard output could not be written, if so."""
    if "stdout" not in _outputs:
        return None
    sys.stdout.flush()
    return _outputs["stdout"].lost


def _lasting(name: str, stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):  # None, when it was closed from the start
        return stream
    stream.flush()
    raw = _outputs[name] = Lasting(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # as `python -u` has it
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
