"""Token rows on disk, memory-mapped: any number of them costs no memory but what is being read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from ftx.data.conversation import Picture
from ftx.data.template import IGNORE, Encoded, Placed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# One array a file, little-endian, without a header: ids int32 and learnt uint8, one a token; starts int64, one a
# sample and one more; labelled int32, one a sample; pictures int64, one a sample and one more: bytes of PICTURES before
# what it says of the sample.
FILES = {"ids": "<i4", "learnt": "|u1", "starts": "<i8", "labelled": "<i4", "pictures": "<i8"}
# For each sample with pictures a line of JSON: [[picture's fields..., start, stop], ...].
PICTURES = "pictures.jsonl"
FLUSH = 1 << 20  # tokens held back before they are written


@dataclass(frozen=True)
class Sample:
    """One training sample: token ids, int32 [tokens], whether each is learnt, bool [tokens], and its pictures."""

    ids: NDArray[np.int32]
    learnt: NDArray[np.bool_]
    pictures: tuple[Placed, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [tokens]: the id where it is learnt, else IGNORE; not shifted."""
        import numpy as np

        return np.where(self.learnt, self.ids.astype(np.int64), IGNORE)


class Writer:
    """Appends samples to the store in `folder`; to be used as a context."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ids: list[int] = []
        self._learnt = bytearray()
        self._starts = [0]
        self._labelled: list[int] = []
        self._pictures = [0]
        self._at = self._pictures_at = 0
        self._files: dict[str, BinaryIO] = {}
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        self._files = {name: (self._folder / f"{name}.bin").open("wb") for name in FILES}
        self._files[PICTURES] = (self._folder / PICTURES).open("wb")
        return self

    def add(self, row: Encoded) -> int:
        """Append a sample; gives the number of its labelled tokens, the first not counted, as nothing predicts it."""
        count = row.learnt.count(1, 1)
        self._ids += row.ids
        self._learnt += row.learnt
        self._at += len(row.ids)
        self._starts.append(self._at)
        self._labelled.append(count)
        if row.pictures:
            self._add_pictures(row.pictures)
        self._pictures.append(self._pictures_at)
        if len(self._ids) > FLUSH:
            self._flush()
        return count

    def _add_pictures(self, pictures: tuple[Placed, ...]) -> None:
        fields = [[*astuple(one.picture), one.start, one.stop] for one in pictures]
        line = json.dumps(fields, ensure_ascii=True).encode() + b"\n"
        self._pictures_at += self._files[PICTURES].write(line)
        # Where the files lie and when they were written makes no other samples.
        self._hash.update(repr([(one.picture.digest, one.start, one.stop) for one in pictures]).encode())

    def digest(self) -> str:
        """sha256 of all samples added, the same whatever file they came from. Writes out what is held back."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        import numpy as np

        held = {"ids": self._ids, "learnt": self._learnt, "starts": self._starts, "labelled": self._labelled}
        for name, values in held.items():
            raw = np.asarray(values, dtype=FILES[name]).tobytes()
            self._hash.update(raw)
            self._files[name].write(raw)
        self._files["pictures"].write(np.asarray(self._pictures, dtype=FILES["pictures"]).tobytes())
        self._ids, self._learnt, self._starts, self._labelled, self._pictures = [], bytearray(), [], [], []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        for file in self._files.values():
            file.close()


class Store(Sequence[Sample]):
    """The samples that a Writer wrote into `folder`."""

    def __init__(self, folder: Path) -> None:
        import numpy as np

        arrays = {name: _mapped(folder / f"{name}.bin", np.dtype(dtype)) for name, dtype in FILES.items()}
        self._ids, self._learnt, self.starts = arrays["ids"], arrays["learnt"], arrays["starts"]
        self._pictures, self._file = arrays["pictures"], folder / PICTURES
        self.labelled: NDArray[np.int32] = arrays["labelled"]
        self.lengths: NDArray[np.int32] = np.diff(self.starts).astype(np.int32)
        tokens = self.starts[-1] if len(self.starts) == len(self.labelled) + 1 else -1
        whole = len(self._pictures) == len(self.starts) and self._file.stat().st_size == self._pictures[-1]
        if not len(self._ids) == len(self._learnt) == tokens or not whole:
            raise ValueError(f"{folder}: the arrays of the store do not fit each other")

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        import numpy as np

        part = slice(int(self.starts[index]), int(self.starts[index + 1]))
        return Sample(self._ids[part], self._learnt[part].view(np.bool_), self._placed(index))

    @property
    def pictured(self) -> NDArray[np.bool_]:
        """bool [samples]: whether the sample has a picture."""
        import numpy as np

        return np.diff(self._pictures) > 0

    def _placed(self, index: int) -> tuple[Placed, ...]:
        start, stop = int(self._pictures[index]), int(self._pictures[index + 1])
        if start == stop:
            return ()
        with self._file.open("rb") as file:
            file.seek(start)
            return placed_in(file.read(stop - start))

    def pictures(self) -> Iterator[Picture]:
        """The pictures of all samples in order, one that recurs as often as it does."""
        with self._file.open("rb") as file:
            for line in file:
                yield from (one.picture for one in placed_in(line))


def placed_in(line: bytes) -> tuple[Placed, ...]:
    """The pictures that a line of PICTURES names."""
    return tuple(Placed(Picture(*fields), start, stop) for *fields, start, stop in json.loads(line))


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    import numpy as np

    if not path.stat().st_size:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, "r")
