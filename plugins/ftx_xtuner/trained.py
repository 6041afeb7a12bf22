"""What a training changed, under the names that the base stores."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ftx import ModelError, RecipeError
from ftx.checkpoint_files import Checkpoint, read_json
from ftx_xtuner.config import LoraOptions, TrainingConfig
from ftx_xtuner.pth import PthCheckpoint, load_tensors, named_tensors

if TYPE_CHECKING:
    import torch

# How XTuner's models call their parts; InternVL's whole model is its `model`.
HEADS = ("llm", "visual_encoder", "projector", "model")
# Features of peft adapters that change the model otherwise than by W + scale * B @ A with one scale.
UNMERGEABLE = ("use_dora", "modules_to_save", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "lora_bias")
_LORA = re.compile(r"(.+)\.lora_(A|B)(?:\.default)?\.weight")


class Factors(NamedTuple):
    """LoRA's A [rank, in] and B [out, rank]; the weight [out, in] grows by scale * B @ A."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float


@dataclass(frozen=True)
class Trained:
    """The LoRA `factors` and the tensors trained as a `whole`, both by the stored name of the weight."""

    factors: Mapping[str, Factors] = field(default_factory=dict)
    whole: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        return {*self.factors, *self.whole}


class Scale(NamedTuple):
    """What LoRA's scale is made of: alpha / rank, or alpha / sqrt(rank) when `rank_stabilised`."""

    alpha: float
    rank_stabilised: bool = False

    def of(self, rank: int) -> float:
        return float(self.alpha / (rank**0.5 if self.rank_stabilised else rank))


def parts_of(checkpoint: PthCheckpoint, config: TrainingConfig, alpha: float | None) -> dict[str, Trained]:
    """What a checkpoint trained, by the part of XTuner's model: "llm", "visual_encoder", "projector" or "model".

    `alpha` takes the place of the config's. Raises ModelError for names that no model of XTuner has, RecipeError when
    LoRA's alpha is nowhere to be found.
    """
    held: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        head, _, rest = name.partition(".")
        if head not in HEADS or not rest:
            raise ModelError(f"the checkpoint holds {name}, which no model of XTuner has")
        held.setdefault(head, {})[rest.replace("base_model.model.", "", 1)] = tensor
    parts = {head: _trained(tensors, partial(_scale, head, config, alpha)) for head, tensors in held.items()}
    for head, part in parts.items():
        _refuse_other_training(head, part, config)
    return parts


def _options(head: str, module: str, config: TrainingConfig) -> LoraOptions | None:
    vision = head == "visual_encoder" or module.startswith("vision_model.")
    return config.lora.get("vision" if vision else "llm")


def _refuse_other_training(head: str, part: Trained, config: TrainingConfig) -> None:
    """Raise ModelError when the config is of another training, whose alpha would scale the factors wrongly."""
    for name, (a, _, _) in part.factors.items():
        module = name.removesuffix(".weight")
        options = _options(head, module, config)
        if options and options.rank not in (None, a.shape[0]):
            raise ModelError(
                f"the LoRA of {module} has rank {a.shape[0]}, but the config makes it {options.rank}: "
                "it is another training's config"
            )
        if options and options.targets and not any(f".{module}".endswith(f".{one}") for one in options.targets):
            raise ModelError(f"{module} is tuned, but no target of the config: it is another training's config")


def _scale(head: str, config: TrainingConfig, alpha: float | None, module: str) -> Scale:
    options = _options(head, module, config)
    found = alpha if alpha is not None else options.alpha if options else None
    if found is None:
        raise RecipeError(
            "the checkpoint does not say LoRA's alpha; give --config FILE of its training, or --alpha NUMBER"
        )
    return Scale(found, bool(options and options.rank_stabilised))


def read_adapter(folder: Path, alpha: float | None) -> Trained:
    """An adapter in peft's files, .safetensors or .bin. Raises ModelError for one that merging would not do justice."""
    config = read_json(folder / "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{folder} is a {config.get('peft_type')} adapter; ftx merges LoRA")
    if used := [feature for feature in UNMERGEABLE if config.get(feature)]:
        raise ModelError(f"{folder} uses {', '.join(used)}, which cannot be merged yet")
    given = config.get("lora_alpha") if alpha is None else alpha
    if not isinstance(given, int | float) or isinstance(given, bool) or given <= 0:
        raise ModelError(f"{folder / 'adapter_config.json'} has no lora_alpha above 0; give --alpha NUMBER")
    scale = Scale(float(given), config.get("use_rslora") is True)
    tensors = {name.removeprefix("base_model.model."): tensor for name, tensor in _adapter_tensors(folder).items()}
    trained = _trained(tensors, lambda _: scale)
    if trained.whole:
        raise ModelError(f"{folder} holds {sorted(trained.whole)[0]}, which is no part of a LoRA")
    return trained


def _adapter_tensors(folder: Path) -> dict[str, torch.Tensor]:
    plain, pickled = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    if plain.is_file():
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(plain))
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{plain} cannot be read: {error}") from None
    if not pickled.is_file():
        raise ModelError(f"{folder} has neither {plain.name} nor {pickled.name}")
    return named_tensors(load_tensors(pickled), pickled)


def _trained(tensors: Mapping[str, torch.Tensor], scale_of: Callable[[str], Scale]) -> Trained:
    """LoRA's factors paired, and the rest. `scale_of` tells the scale of a module. Raises ModelError."""
    sides: dict[str, dict[str, torch.Tensor]] = {}
    whole: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if found := _LORA.fullmatch(name):
            sides.setdefault(found[1], {})[found[2]] = tensor
        elif "lora_" in name:
            raise ModelError(f"the adapter holds {name}, which is no LoRA of a linear layer and cannot be merged")
        else:
            whole[name] = tensor
    factors = {f"{module}.weight": _factors(module, pair, scale_of(module)) for module, pair in sides.items()}
    return Trained(factors, whole)


def _factors(module: str, pair: Mapping[str, torch.Tensor], scale: Scale) -> Factors:
    if len(pair) != 2:
        raise ModelError(f"the adapter holds but one of the two LoRA factors of {module}")
    a, b = pair["A"], pair["B"]
    if not (a.dim() == b.dim() == 2 and a.shape[0] == b.shape[1]):
        raise ModelError(f"the LoRA factors of {module} do not fit each other: {tuple(b.shape)} and {tuple(a.shape)}")
    return Factors(a, b, scale.of(a.shape[0]))


def part_for(parts: Mapping[str, Trained], base: Checkpoint) -> str:
    """The part whose tensors `base` has. Raises ModelError when there is none, or its shapes are others."""
    stored = base.tensors
    fitting = [head for head, part in parts.items() if part.names and part.names <= stored.keys()]
    if not fitting:
        stray = min(sorted(part.names - stored.keys()) for part in parts.values())[0]
        raise ModelError(f"the adapter tunes {stray}, which {base.folder} does not have: it is another model's")
    part = parts[fitting[0]]
    shapes: dict[str, tuple[int, ...]] = {name: (b.shape[0], a.shape[1]) for name, (a, b, _) in part.factors.items()}
    shapes |= {name: tuple(tensor.shape) for name, tensor in part.whole.items()}
    for name, shape in shapes.items():
        if shape != stored[name].shape:
            raise ModelError(
                f"{name} is {stored[name].shape} in {base.folder}, but the adapter was trained on {shape}: "
                "it is another model's"
            )
    return fitting[0]
