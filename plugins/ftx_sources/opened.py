"""Files opened for reading: unpacked on the way, their encoding found, failures named."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from ftx import DataError

PACKINGS = (".gz", ".zst")
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class DataFile:
    """A file to read. `label` is what messages call it, `kind` its ending without that of its packing."""

    path: Path
    label: str
    kind: str
    packing: str = ""

    @staticmethod
    def of(path: Path, ending: str | None = None) -> DataFile:
        """The file at `path`; `ending` (without its dot) stands in for the ending of its name."""
        packing = path.suffix.lower() if path.suffix.lower() in PACKINGS else ""
        name = path.with_suffix("") if packing else path
        return DataFile(path, str(path), f".{ending.lower()}" if ending else name.suffix.lower(), packing)

    def check(self) -> None:
        """Raise DataError unless the file opens and holds something."""
        try:
            with self.path.open("rb") as file:
                empty = not file.read(1)
        except FileNotFoundError:
            raise DataError(f"{self.label} does not exist") from None
        except OSError as error:
            raise DataError(f"{self.label} cannot be opened: {error.strerror}") from None
        if empty:
            raise DataError(f"{self.label} is empty")

    @contextmanager
    def binary(self) -> Iterator[BinaryIO]:
        """The unpacked bytes. Raises DataError when the packing is damaged."""
        import pyarrow

        try:
            if self.packing == ".gz":
                with gzip.open(self.path) as file:
                    yield file  # type: ignore[misc]
            elif self.packing == ".zst":
                with pyarrow.input_stream(str(self.path), compression="zstd") as file:
                    yield cast("BinaryIO", file)
            else:
                with self.path.open("rb") as file:
                    yield file
        except (gzip.BadGzipFile, EOFError, zlib.error, pyarrow.ArrowException) as error:
            raise DataError(f"{self.label} is no whole {self.packing} file: {error}") from None
        except OSError as error:
            if error.errno is None and self.packing:  # pyarrow's, of a damaged stream
                raise DataError(f"{self.label} is no whole {self.packing} file: {error}") from None
            raise DataError(f"{self.label} cannot be read: {error.strerror or error}") from None

    @contextmanager
    def text(self, newline: str) -> Iterator[TextIO]:
        """The text, its lines ended as `open` has it with `newline`. Raises DataError for what is no text."""
        encoding = self._encoding()
        with self.binary() as raw, io.TextIOWrapper(raw, encoding, newline=newline) as text:
            yield text

    def _encoding(self) -> str:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        seen = 0
        with self.binary() as raw:
            while chunk := raw.read(CHUNK):
                if not seen and b"\x00" in chunk[:4096]:
                    raise DataError(f"{self.label} is not text: it holds NUL bytes (UTF-16? save it as UTF-8)")
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError:
                    return self._other_encoding()
                seen += len(chunk)
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return self._other_encoding()
        return "utf-8-sig"

    def _other_encoding(self) -> str:
        """GB18030, when that is what it is; what UTF-8 it fails to be otherwise."""
        with self.binary() as stream:
            raw = stream.read()
        try:
            raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            bad = len(raw) - len(error.object) + error.start  # the codec counts after a byte order mark
            if _mostly_utf8(raw):
                raise DataError(
                    f"{self.label} is damaged UTF-8: byte {bad} begins no character; save it as UTF-8 again"
                ) from None
        try:
            raw.decode("gb18030")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.label} is neither UTF-8 nor GB18030: byte {error.start} fits neither; save it as UTF-8"
            ) from None
        return "gb18030"


def _mostly_utf8(raw: bytes) -> bool:
    """Whether nearly all that is not ASCII reads as UTF-8: then some bytes are damaged, and it is no other encoding.

    GB18030 accepts nearly any bytes, so reading damaged UTF-8 as GB18030 would turn every character into another.
    """
    foreign = [char for char in raw.decode("utf-8", "replace") if char > "\x7f"]
    return foreign.count("\ufffd") * 10 < len(foreign)
