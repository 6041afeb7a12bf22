"""What a file holds, as the gate looks through it: data that are packed are unpacked on the way."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from ftx.errors import DataError

CHUNK = 1 << 20  # bytes
ROWS = 1024  # of a Parquet file, at a time


def unpacked(path: Path, name: str) -> Iterator[bytes]:
    """All that the file holds, by at most CHUNK bytes. Raises DataError for a packing that is damaged."""
    import pyarrow

    try:
        for stream in _streams(path, name.lower()):
            while chunk := stream.read(CHUNK):
                yield chunk
    except (EOFError, ValueError, OSError, zlib.error, zipfile.BadZipFile, pyarrow.ArrowException) as error:
        raise DataError(f"{name} cannot be looked into ({error}); make it anew") from None


def _streams(path: Path, name: str) -> Iterator[BinaryIO]:
    import pyarrow
    from pyarrow import parquet

    if name.endswith(".gz"):
        with gzip.open(path) as file:
            yield cast("BinaryIO", file)
    elif name.endswith(".zst"):
        with pyarrow.input_stream(str(path), compression="zstd") as file:
            yield cast("BinaryIO", file)
    elif name.endswith(".xlsx"):
        with zipfile.ZipFile(path) as book:
            for member in book.namelist():
                with book.open(member) as file:
                    yield cast("BinaryIO", file)
    elif name.endswith(".parquet"):
        with parquet.ParquetFile(path) as table:
            yield io.BytesIO(str(table.schema_arrow.metadata).encode())
            for batch in table.iter_batches(batch_size=ROWS):
                yield io.BytesIO("\n".join(map(str, batch.to_pylist())).encode("utf-8", "replace"))
    else:
        with path.open("rb") as file:
            yield file
