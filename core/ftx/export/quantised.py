"""The base as a quantised training run saw it: what its adapter was fitted to, and not quite what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.artifact import Artifact
from ftx.contracts import ModelFamily, TrainMethod
from ftx.errors import ModelError
from ftx.fast.weight import dense, stored_as
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

    model = family.load(base, dtype=torch.float32, device="cpu", attention="sdpa", quantization=quantization)
    layers = {f"{name}.weight": layer for name, layer in model.named_modules() if stored_as(layer) in ("nf4", "int8")}

    def seen(name: str) -> torch.Tensor | None:
        return dense(layers[name], torch.float32)[0] if name in layers else None

    return seen


def hold_as_seen(model: PreTrainedModel, family: ModelFamily, base: Path, quantization: Any) -> None:
    """Give a whole model of `base` the weights that training saw, so that plain products compute with them."""
    seen = seen_base(family, base, quantization)
    for name, parameter in model.named_parameters():
        if (weight := seen(name)) is not None:
            parameter.data.copy_(weight)


# Share of a layer's weights' root mean square that rounding to 4 bits moves them by is 0.1 for nf4 of normal weights.
DAMAGED = 0.25


def layer_problems(model: PreTrainedModel, family: ModelFamily, folder: Path) -> Iterator[str]:
    """Quantised layers of `model` that are not what the model in `folder` holds, rounded. One sentence each."""
    layers = {f"{name}.weight": layer for name, layer in model.named_modules() if stored_as(layer) in ("nf4", "int8")}
    if not layers:
        return
    layout, checkpoint = family.layout(folder), family.checkpoint(folder)
    read = checkpoint.reader()
    for stored in checkpoint.tensors:
        if not any(native in layers for native in layout.native_names(stored)):
            continue
        for native, weight in layout.split(stored, read(stored)).items():
            if native in layers and (share := _moved(layers[native], weight)) > DAMAGED:
                yield f"{native}: its quantised weights are {share:.0%} off the ones it was made of: damaged"


def _moved(layer: Any, weight: torch.Tensor) -> float:
    """Root mean square of what rounding moved, as a share of that of the weights."""
    import torch

    weight = weight.float()
    off = dense(layer, torch.float32)[0].to(weight.device) - weight
    return float(off.square().mean().sqrt() / weight.square().mean().sqrt())
