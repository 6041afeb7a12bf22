"""Merging on stored tensors: no model class is needed, whatever the layout.

XTuner rounds the factors and the base to one dtype and adds there, as peft 0.10 does on a CPU. The same order of
operations gives the same bits. Merging into the base's own dtype rounds but once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ftx.atomic import write_json
from ftx.checkpoint_files import Checkpoint, read_json
from ftx.export.weights import write_shards
from ftx_xtuner.trained import Factors, Trained

if TYPE_CHECKING:
    import torch

# The dtype XTuner merges a model in; others than these, which are towers, keep their own.
OFFICIAL = {"internvl_chat": "bfloat16", "clip": None, "clip_vision_model": None, "siglip_vision_model": None}
LANGUAGE = "float16"


def xtuners_dtype(model_type: str) -> str | None:
    """Name of the dtype that XTuner merges such a model in; None for the base's own."""
    return OFFICIAL.get(model_type, LANGUAGE)


def merged(weight: torch.Tensor, factors: Factors, dtype: torch.dtype | None) -> torch.Tensor:
    """`weight` [out, in] with the factors merged, rounded as XTuner does in `dtype`; None: once, to its own dtype."""
    import torch

    a, b, scale = factors
    if dtype is None:
        return (weight.float() + (b.float() @ a.float()) * scale).to(weight.dtype)
    a, b = a.to(dtype), b.to(dtype)
    if dtype is torch.float16:
        # peft multiplies halves in float32 where there is no GPU, and bfloat16 as it is.
        return weight.to(dtype) + ((b.float() @ a.float()) * scale).to(dtype)
    return weight.to(dtype) + (b @ a) * scale


def merged_tensor(name: str, weight: torch.Tensor, trained: Trained, dtype: torch.dtype | None) -> torch.Tensor:
    """The tensor `name` as training left it. What it did not touch is only cast; numbers without a point stay."""
    if name in trained.factors:
        return merged(weight, trained.factors[name], dtype)
    tensor = trained.whole.get(name, weight)
    return tensor.to(dtype or weight.dtype) if weight.is_floating_point() else tensor


def write_merged(trained: Trained, base: Checkpoint, out: Path, dtype: str | None) -> None:
    """Write the merged shards into `out`, one at a time, sharded as the base is. `dtype` by torch's name."""
    import torch

    target = getattr(torch, dtype) if dtype else None
    read = base.reader()
    write_shards(base, out, lambda name: merged_tensor(name, read(name), trained, target))


def set_dtype(folder: Path, dtype: str) -> None:
    """Put the weights' dtype into config.json under the name it has there. Raises ModelError, StorageError."""
    config = read_json(folder / "config.json")
    known = {"torch_dtype", "dtype"} & config.keys() or {"torch_dtype"}
    write_json(folder / "config.json", {**config, **dict.fromkeys(known, dtype)})
