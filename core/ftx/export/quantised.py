"""The base as a quantised training run saw it: what its adapter was fitted to, and not quite what is stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.artifact import Artifact
from ftx.contracts import ModelFamily, TrainMethod
from ftx.errors import ModelError
from ftx.plan import configured

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ftx.plugins import Registry

# A native parameter by name, [out, in] float32 as training saw it; None for one that was not quantised.
Seen = Callable[[str], "torch.Tensor | None"]


def method_of(artifact: Artifact, registry: Registry) -> TrainMethod:
    """The method an artefact was trained with, options and all. Raises RecipeError for one that is not known here."""
    options = {key: value for key, value in artifact.plan["method"].items() if key != "produces"}
    return configured(registry.method(options["name"]), options, "method")


def quantization_of(method: TrainMethod, family: ModelFamily) -> Any:
    """How `method` holds its base when float32 computes with it; None for a base that is held as it is.

    Raises ModelError when what it takes is not installed.
    """
    import torch

    if missing := list(method.requirements()):
        raise ModelError(*missing)
    return method.quantization(torch.float32, family)


def seen_base(family: ModelFamily, base: Path, quantization: Any) -> Seen:
    """Parameters of `base` rounded as `quantization` rounds them, made one at a time on a CPU."""
    import torch

    from ftx.fast.weight import dense

    model = family.load(base, dtype=torch.float32, device="cpu", attention="sdpa", quantization=quantization)
    layers = _rounded(model)

    def seen(name: str) -> torch.Tensor | None:
        return dense(layers[name], torch.float32)[0] if name in layers else None

    return seen


def _rounded(model: PreTrainedModel) -> dict[str, Any]:
    """The layers that hold their weight in few bits, by its name."""
    from ftx.fast.weight import rounded_as

    return {f"{name}.weight": layer for name, layer in model.named_modules() if rounded_as(layer)}


def hold_as_seen(model: PreTrainedModel, family: ModelFamily, base: Path, quantization: Any) -> None:
    """Give a whole model of `base` the weights that training saw, so that plain products compute with them."""
    seen = seen_base(family, base, quantization)
    for name, parameter in model.named_parameters():
        if (weight := seen(name)) is not None:
            parameter.data.copy_(weight)


# Share of a weight's root mean square that rounding may move it by. Measured of normal and heavy-tailed weights and of
# outlying columns: nf4 0.09, 0.11, 0.16; fp4 0.12, 0.17, 0.2; int8 0.008, 0.03, 0.04; a 16 bit dtype below 0.005.
DAMAGED = {"nf4": 0.21, "int8": 0.1, "dense": 0.01}


def weight_problems(model: PreTrainedModel, family: ModelFamily, folder: Path) -> Iterator[str]:
    """Parameters of a quantised `model` that are not what the model in `folder` holds, rounded. One sentence each."""
    from ftx.fast.weight import rounded_as

    layers = _rounded(model)
    if not layers:
        return
    held = dict(model.named_parameters())
    layout, checkpoint = family.layout(folder), family.checkpoint(folder)
    read = checkpoint.reader()
    for stored in checkpoint.tensors:
        if not any(native in held for native in layout.native_names(stored)):
            continue
        for native, weight in layout.split(stored, read(stored)).items():
            if native not in held:
                continue
            layer = layers.get(native)
            kind = (rounded_as(layer) if layer is not None else None) or "dense"
            share = _moved(held[native] if layer is None else layer, weight)
            if not share <= DAMAGED[kind]:  # nan is damage too
                yield f"{native}: its weights are {share:.0%} off the ones they were made of: damaged"


def _moved(held: Any, weight: torch.Tensor) -> float:
    """Root mean square of how far `held`, a parameter or a quantised layer, is off, as a share of that of `weight`."""
    import torch

    from ftx.fast.weight import dense

    kept = held.detach().float() if isinstance(held, torch.Tensor) else dense(held, torch.float32)[0]
    if kept.shape != weight.shape:
        return math.inf
    weight = weight.float()
    off = (kept.to(weight.device) - weight).square().mean().sqrt()
    return float(off / weight.square().mean().sqrt()) if off else 0.0
