"""Weight files of a model folder read as data: names, shapes and dtypes without loading tensors."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, NonNegativeInt, TypeAdapter

from ftx.errors import ModelError

if TYPE_CHECKING:
    import torch

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")
# All that decides how a model folder's text becomes ids.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
MAX_HEADER = 100_000_000  # bytes; the safetensors format's own limit
NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor: `dtype` by torch's name, and the shard file that holds it."""

    shape: tuple[int, ...]
    dtype: str
    shard: str


@dataclass(frozen=True)
class Checkpoint:
    """The shards of a model folder, safetensors or .bin, in the order of the index."""

    folder: Path
    shards: tuple[str, ...]

    @staticmethod
    def of(folder: Path) -> Checkpoint:
        """Find the weight files. Raises ModelError when there are none or one of the index is missing."""
        for single, index in zip(SINGLES, INDEXES, strict=True):  # transformers' own order
            if (folder / single).is_file():
                return Checkpoint(folder, (single,))
            if (folder / index).is_file():
                listed = read_json(folder / index).get("weight_map")
                if not isinstance(listed, dict):
                    raise ModelError(f"{folder / index} has no weight_map")
                shards = tuple(dict.fromkeys(str(s) for s in listed.values()))
                return Checkpoint(folder, tuple(_existing(folder, shard) for shard in shards))
        raise ModelError(f"{folder} holds no weights: neither {' nor '.join(SINGLES)} nor an index of shards")

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every stored tensor by name. Raises ModelError for a broken or truncated shard."""
        found: dict[str, TensorInfo] = {}
        for shard in self.shards:
            path = self.folder / shard
            read = _safetensors_header if shard.endswith(".safetensors") else _bin_header
            for name, info in read(path):
                if name in found:
                    raise ModelError(f"tensor '{name}' is stored twice: in {found[name].shard} and in {shard}")
                found[name] = info
        return found

    def read(self, shard: str) -> dict[str, torch.Tensor]:
        """The tensors of one shard, memory-mapped where the file kind allows it."""
        import torch
        from safetensors.torch import load_file

        path = self.folder / shard
        if shard.endswith(".safetensors"):
            return dict(load_file(path))
        # weights_only is torch's restricted unpickler: tensors and plain containers, no code.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return {str(name): tensor for name, tensor in loaded.items()}

    def reader(self) -> Callable[[str], torch.Tensor]:
        """A function from a tensor's name to the tensor, which holds one shard at a time."""
        held: dict[str, dict[str, torch.Tensor]] = {}

        def tensor(name: str) -> torch.Tensor:
            shard = self.tensors[name].shard
            if shard not in held:
                held.clear()
                held[shard] = self.read(shard)
            return held[shard][name]

        return tensor

    def size(self) -> int:
        return sum((self.folder / shard).stat().st_size for shard in self.shards)


def is_computed(name: str) -> bool:
    """Whether a stored tensor is a rotary buffer of old exports, which is computed and holds nothing learnt."""
    return name.endswith("rotary_emb.inv_freq")


def _existing(folder: Path, shard: str) -> str:
    if Path(shard).name != shard:
        raise ModelError(f"the index of {folder} names '{shard}', which leaves the folder")
    if not (folder / shard).is_file():
        raise ModelError(f"{folder} lacks the shard {shard} that its index names; fetch it again")
    return shard


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the model folder. Raises ModelError."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path.parent} has no {path.name}: it is no model folder") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object")
    return value


def _safetensors_header(path: Path) -> Iterator[tuple[str, TensorInfo]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise ModelError(f"{path} is truncated or no safetensors file; fetch it again")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = _HEADER.validate_python(header)
        except (ValueError, TypeError, AttributeError):
            raise ModelError(f"{path} has a broken safetensors header; fetch it again") from None
    end = max((entry.data_offsets[1] for entry in entries.values()), default=0)
    if 8 + length + end != size:
        raise ModelError(f"{path} is truncated: {size} bytes of {8 + length + end}; fetch it again")
    for name, entry in entries.items():
        yield name, TensorInfo(tuple(entry.shape), NAMES.get(entry.dtype, entry.dtype), path.name)


class _Entry(BaseModel):
    """One tensor in a safetensors header."""

    dtype: str
    shape: list[NonNegativeInt]
    data_offsets: tuple[NonNegativeInt, NonNegativeInt]


_HEADER = TypeAdapter(dict[str, _Entry])


def _bin_header(path: Path) -> Iterator[tuple[str, TensorInfo]]:
    import pickle

    import torch

    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is truncated or no PyTorch weight file; fetch it again")
    try:
        # On the meta device nothing but names and shapes is read.
        loaded = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(f"{path} cannot be read as plain weights: {first}") from None
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
        raise ModelError(f"{path} holds something else than named weights")
    for name, tensor in loaded.items():
        yield str(name), TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), path.name)
