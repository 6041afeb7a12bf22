"""XTuner's and MMEngine's .pth checkpoints, read as data.

Beside tensors such a file holds what the training kept for itself: curves in mmengine's HistoryBuffer, numpy numbers,
the optimizer. torch's restricted unpickler reads it, memory-mapped, so that what is not looked at costs nothing. The
few names that it does not know and a genuine file has stand for an object that does nothing; neither mmengine nor
numpy nor getattr is ever called. Any other name is refused.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from ftx import ModelError

if TYPE_CHECKING:
    import torch

UNUSED = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # by which a HistoryBuffer names its own methods
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
)
# What torch's reader raises for a file that is damaged or made by hand.
BROKEN = (
    UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    AssertionError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
)
DEEPSPEED = "mp_rank_00_model_states.pt"


@dataclass(frozen=True)
class PthCheckpoint:
    """A checkpoint's `tensors` by their names in XTuner's model; the training's `config` as text, its `step`."""

    tensors: dict[str, torch.Tensor]
    config: str | None
    step: int | None


class _Unused:
    """Stands where a file holds something that is not needed."""

    def __new__(cls, *_: object) -> _Unused:
        return object.__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass

    def __repr__(self) -> str:
        return "that ftx leaves unread"


def read_pth(path: Path) -> PthCheckpoint:
    """Read a .pth file, or the folder of that name that DeepSpeed writes.

    Of DeepSpeed's, the 16-bit weights are read. Raises ModelError.
    """
    file = _deepspeed(path) if path.is_dir() else path
    held = load_tensors(file)
    meta = held.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    config, step = meta.get("cfg"), meta.get("iter")
    tensors = held.get("module" if path.is_dir() else "state_dict", held)
    return PthCheckpoint(
        named_tensors(tensors, file),
        config if isinstance(config, str) else None,
        step if isinstance(step, int) else None,
    )


def is_deepspeed(path: Path) -> bool:
    """Whether DeepSpeed wrote the folder `path`."""
    return any(path.glob("*_model_states.pt"))


def load_tensors(path: Path) -> dict[Any, Any]:
    """The mapping that torch.save wrote into `path`, tensors memory-mapped on the CPU. Raises ModelError."""
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    if not path.is_file():
        raise ModelError(f"{path} does not exist")
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is truncated or no PyTorch checkpoint; fetch it again")
    try:
        with safe_globals([(_Unused, name) for name in UNUSED]):
            strange = get_unsafe_globals_in_checkpoint(path)
            held = {} if strange else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except BROKEN as error:
        raise ModelError(f"{path} cannot be read as a checkpoint: {_reason(error)}") from None
    if strange:
        raise ModelError(f"{path} holds {sorted(strange)[0]}, which no checkpoint of XTuner needs: it is not opened")
    if not isinstance(held, dict):
        raise ModelError(f"{path} holds no mapping of names to tensors")
    return held


def _reason(error: Exception) -> str:
    """What went wrong in one line, without torch's advice to read the file unsafely."""
    text = str(error) or repr(error)
    return (text.partition("WeightsUnpickler error: ")[2] or text).strip().splitlines()[0]


def named_tensors(held: object, path: Path) -> dict[str, torch.Tensor]:
    """`held` when it is names and tensors and nothing else. Raises ModelError."""
    import torch

    plain = isinstance(held, dict) and all(isinstance(n, str) and isinstance(t, torch.Tensor) for n, t in held.items())
    if not isinstance(held, dict) or not held or not plain:
        raise ModelError(f"{path} holds no weights, or something else than named tensors among them")
    return dict(held)


def _deepspeed(folder: Path) -> Path:
    """The file with the weights in a folder that DeepSpeed wrote. Raises ModelError."""
    if any(folder.glob("zero_pp_rank_*_model_states.pt")) or (folder / "mp_rank_01_model_states.pt").exists():
        raise ModelError(
            f"the weights of {folder} are spread over the files of several processes; "
            "join them with the zero_to_fp32.py that lies beside it, and give the file it writes"
        )
    if not (folder / DEEPSPEED).is_file():
        raise ModelError(f"{folder} is no checkpoint of DeepSpeed: it has no {DEEPSPEED}")
    return folder / DEEPSPEED
