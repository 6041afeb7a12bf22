"""Tensors of a LLaVA whose parts lie in folders of their own, seen as one checkpoint, adapters merged as it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ftx import ModelError
from ftx.checkpoint_files import Checkpoint, TensorInfo
from ftx.export.merge import Adapter, adapter_weights

if TYPE_CHECKING:
    import torch

# Buffers of old exports: computed, nothing learnt.
COMPUTED = ("rotary_emb.inv_freq", "embeddings.position_ids")
SEED = 0  # of a new projector: every process, and every later load, begins with the same numbers
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Source:
    """A part's own checkpoint.

    `prefix` stands before its tensors' names in the whole; a part written to a folder of its own has "folder/". Tensors
    whose own names do not begin with `keep` belong to something else. `adapter` is a peft folder on the own names.
    """

    checkpoint: Checkpoint
    prefix: str = ""
    keep: str = ""
    adapter: Path | None = None

    @property
    def below(self) -> str:
        """The folder that the part is written to, with its slash; "" is the root."""
        return self.prefix if self.prefix.endswith("/") else ""

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """What belongs to the part, by its own names. Raises ModelError when the adapter is another model's."""
        found = {
            name: info
            for name, info in self.checkpoint.tensors.items()
            if name.startswith(self.keep) and not name.endswith(COMPUTED)
        }
        if self.adapter:
            _check_adapter(self.adapter, self.checkpoint.folder, found)
        return found

    @cached_property
    def merging(self) -> Adapter | None:
        return Adapter.read(self.adapter) if self.adapter else None

    def read(self, shard: str) -> dict[str, torch.Tensor]:
        """The part's tensors in one of its shards, by their names in the whole."""
        held = {name: tensor for name, tensor in self.checkpoint.read(shard).items() if name in self.tensors}
        if self.merging:
            held = {name: _tuned(self.merging, name, tensor) for name, tensor in held.items()}
        return {f"{self.prefix}{name}": tensor for name, tensor in held.items()}


@dataclass(frozen=True)
class Spanning(Checkpoint):
    """The checkpoints of all parts as one, whose shards are named as they are to be written."""

    origins: Mapping[str, tuple[Source, str]] = field(default_factory=dict)

    @staticmethod
    def over(folder: Path, sources: tuple[Source, ...]) -> Spanning:
        """Raises ModelError for a part that cannot be read."""
        origins: dict[str, tuple[Source, str]] = {}
        for below in dict.fromkeys(source.below for source in sources):
            beside = [source for source in sources if source.below == below]
            shards = [
                (source, shard)
                for source in beside
                for shard in dict.fromkeys(info.shard for info in source.tensors.values())
            ]
            for number, (source, shard) in enumerate(shards, 1):
                # Files of several folders in one may have the same names.
                name = shard if len(beside) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
                origins[f"{below}{name}"] = source, shard
        return Spanning(folder, tuple(origins), origins)

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        return {
            f"{source.prefix}{name}": replace(info, shard=shard)
            for shard, (source, own) in self.origins.items()
            for name, info in source.tensors.items()
            if info.shard == own
        }

    def read(self, shard: str) -> dict[str, torch.Tensor]:
        source, own = self.origins[shard]
        return source.read(own)

    def size(self) -> int:
        return sum(math.prod(info.shape) * BYTES.get(info.dtype, 1) for info in self.tensors.values())


@dataclass(frozen=True)
class NewProjector(Checkpoint):
    """A projector that nobody has trained: uniform within 1 / sqrt(inputs), as torch begins a linear layer."""

    vision_width: int
    width: int
    dtype: str

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        shapes = {
            "model.0.weight": (self.width, self.vision_width),
            "model.0.bias": (self.width,),
            "model.2.weight": (self.width, self.width),
            "model.2.bias": (self.width,),
        }
        return {name: TensorInfo(shape, self.dtype, self.shards[0]) for name, shape in shapes.items()}

    def read(self, shard: str) -> dict[str, torch.Tensor]:
        import torch

        generator = torch.Generator().manual_seed(SEED)
        inputs = {"model.0": self.vision_width, "model.2": self.width}
        made = {}
        for name, info in self.tensors.items():
            bound = inputs[name.rpartition(".")[0]] ** -0.5
            uniform = torch.rand(info.shape, generator=generator) * 2 * bound - bound
            made[name] = uniform.to(getattr(torch, info.dtype))
        return made


def _tuned(adapter: Adapter, name: str, weight: torch.Tensor) -> torch.Tensor:
    """The weight with its adapter, added in float32, in its own dtype; what is not tuned comes out bit for bit."""
    if name in adapter.whole:
        return adapter.whole[name].to(weight.dtype)
    return (weight.float() + adapter.delta(name)).to(weight.dtype) if name in adapter.factors else weight


def _check_adapter(adapter: Path, base: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Compare names and shapes of a peft adapter with its base's. Raises ModelError."""
    for name, info in adapter_weights(adapter).tensors.items():
        own = name.removeprefix("base_model.model.")
        module, factor, _ = own.partition(".lora_")
        tuned = f"{module}.weight" if factor else own
        if tuned not in tensors:
            raise ModelError(f"the adapter {adapter} tunes {tuned}, which {base} does not have: it is another model's")
        shape = tensors[tuned].shape
        fits = shape == info.shape if not factor else _fits(own, info.shape, shape)
        if not fits:
            raise ModelError(
                f"the adapter {adapter} tunes a {tuned} of another size than {base} has: it is another model's"
            )


def _fits(name: str, factor: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether a LoRA factor, A [r, in] or B [out, r], belongs to a weight [out, in]."""
    if len(factor) != 2 or len(whole) != 2:
        return False
    return factor[1] == whole[1] if ".lora_A" in name else factor[0] == whole[0]
