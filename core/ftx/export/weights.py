"""Writes a native model's parameters back in the layout of the folder it came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ftx.checkpoint_files import Checkpoint, is_computed
from ftx.contracts import ModelFamily
from ftx.errors import ModelError

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]


def export_weights(
    native: Mapping[str, torch.Tensor], family: ModelFamily, source: Path, out: Path, *, keep_dtype: bool = False
) -> None:
    """Write `native`, parameters of a model of `family`, under the names and in the shards of `source`, as safetensors.

    Each tensor takes the dtype it has in `source`, or stays as it is with `keep_dtype`. Weights that were not
    changed come out bit for bit, as do those that are no part of the native model. Raises ModelError when a parameter
    is missing.
    """
    checkpoint, layout = family.checkpoint(source), family.layout(source)
    read = checkpoint.reader()

    def tensor(name: str) -> torch.Tensor:
        import torch

        if not layout.native_names(name):
            return read(name)
        absent = [n for n in layout.native_names(name) if n not in native]
        if absent:
            raise ModelError(f"the model has no parameter {absent[0]}, which {name} of {source} needs")
        joined = layout.join(name, native)
        return joined if keep_dtype else joined.to(getattr(torch, checkpoint.tensors[name].dtype))

    write_shards(checkpoint, out, tensor)


def write_shards(checkpoint: Checkpoint, out: Path, tensor: Callable[[str], torch.Tensor]) -> None:
    """Write `tensor(name)` for every stored name into `out`, one shard at a time, sharded as `checkpoint` is.

    A shard "folder/file" goes into that folder, which gets an index of its own; there its tensors are named without
    "folder/". Rotary buffers of old exports are left out: they are computed. Raises OSError.
    """
    names: dict[str, list[str]] = {shard: [] for shard in checkpoint.shards}
    for name, info in checkpoint.tensors.items():
        if not is_computed(name):
            names[info.shard].append(name)
    written: dict[str, _Written] = {}
    for shard, stored in names.items():
        below, slash, file = _safetensors_name(shard).rpartition("/")
        tensors = {name.removeprefix(below + slash): tensor(name) for name in stored}
        written.setdefault(below, _Written(out / below)).add(file, tensors)
    for shards in written.values():
        shards.write_index()


def write_renamed(checkpoint: Checkpoint, out: Path, renamed: Callable[[str, torch.Tensor], Tensors]) -> None:
    """Write into `out` what `renamed` makes of each stored tensor, one shard at a time, sharded as `checkpoint` is."""
    written = _Written(out)
    for shard in checkpoint.shards:
        made: Tensors = {}
        for name, tensor in checkpoint.read(shard).items():
            made |= renamed(name, tensor)
        written.add(_safetensors_name(shard), made)
    written.write_index()


@dataclass
class _Written:
    """The shards written into `folder`: the file of each tensor, and their bytes together."""

    folder: Path
    weight_map: dict[str, str] = field(default_factory=dict)
    total: int = 0

    def add(self, file: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write a shard. Raises OSError."""
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        # A clone of its own for each, as shared or strided memory cannot be stored.
        own = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
        save_file(own, self.folder / file, metadata={"format": "pt"})
        self.weight_map |= dict.fromkeys(tensors, file)
        self.total += sum(t.numel() * t.element_size() for t in tensors.values())

    def write_index(self) -> None:
        """Write the index, unless all is in the one file that is found without it."""
        if set(self.weight_map.values()) == {"model.safetensors"}:
            return
        index = {"metadata": {"total_size": self.total}, "weight_map": dict(sorted(self.weight_map.items()))}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), "utf-8")


def _safetensors_name(shard: str) -> str:
    return shard.replace("pytorch_model", "model").removesuffix(".bin").removesuffix(".safetensors") + ".safetensors"
