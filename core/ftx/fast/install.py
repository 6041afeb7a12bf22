"""Puts the fast path under a model's modules: the same modules, parameters and files, other arithmetic.

A module is taken over only where its own class leaves no doubt what it computes, and a norm or a gated MLP only after
it gave the same as ours on a random input: whatever else a model has runs as transformers wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ftx.fast import eight
from ftx.fast.eight_adapters import Adapters
from ftx.fast.groups import GATED, TOGETHER
from ftx.fast.norms import take_over_norms, take_over_rope
from ftx.fast.products import Form, GatedMLP, Linears, Low, Piece
from ftx.fast.weight import stored_as
from ftx.seeds import seed_device

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

CLOSE = 2e-2  # of the largest value, between two orders of rounding in bfloat16


def install(
    model: Module, dtype: torch.dtype, form: Form, *, eight_bits: bool = False, copied: bool = True
) -> dict[str, int]:
    """Take over what can be; how many modules of each kind that was.

    Products are computed in `dtype`; with `eight_bits` those of frozen weights in 8 bits, where the weights allow.
    Adapters are `copied` to that precision once a pass, or else each time that they are used.
    """
    taken = {"layers": 0, "mlps": 0, "norms": 0, "ropes": 0}
    if next(model.parameters()).is_cuda:
        taken["norms"] = take_over_norms(model)
        taken["ropes"] = take_over_rope(model)
    copies = _Copies(dtype) if copied else None
    how = _How(dtype, form, copies, Adapters() if eight_bits else None)
    _take_int8(model, how)
    # What a layer of peft's is made of is no layer of the model.
    done = {part for layer in model.modules() if hasattr(layer, "base_layer") for part in layer.modules()} - {
        layer for layer in model.modules() if hasattr(layer, "base_layer")
    }
    for parent in list(model.modules()):
        layers = _children(parent, GATED)
        if (
            len(layers) == len(GATED)
            and _silu(parent)
            and not done.intersection(layers)
            and _take_mlp(parent, layers, how)
        ):
            done.update(layers)
            taken["mlps"] += 1
            taken["layers"] += sum(map(_trained, layers))
    for group in _groups(model, done):
        _take_group(group, how)
        taken["layers"] += len(group)
    if eight_bits:
        taken["eight"] = sum(eight.holds(module) for module in model.modules())
    if taken["layers"]:
        # At the model within peft's, through which answers go too: peft's own is passed in training alone.
        within: Any = getattr(model, "get_base_model", lambda: model)
        if copies:
            within().register_forward_pre_hook(copies.refresh)
        if how.eight_bits:
            within().register_forward_pre_hook(how.eight_bits.refresh)
    return taken


def _take_int8(model: Module, how: _How) -> None:
    """Compute each LLM.int8 layer's product with its dense weight: on a GPU bitsandbytes rounds what it reads, too, and
    waits for the GPU, so that no pass could be recorded."""
    for layer in list(model.modules()):
        if stored_as(layer) == "int8":
            _take_group([layer], how)


def _children(parent: Module, names: Sequence[str]) -> list[Module]:
    """The parent's children of these names that the fast path can compute."""
    found = (getattr(parent, name, None) for name in names)
    return [child for child in found if isinstance(child, torch.nn.Module) and _known(child)]


def _known(layer: Module) -> bool:
    """Whether a layer is a linear one, with at most one plain adapter of peft's."""
    base = getattr(layer, "base_layer", None)
    if base is None and _whole(layer) is not None:
        return True
    if base is None:
        return stored_as(layer) is not None and not any(p.requires_grad for p in layer.parameters())
    return stored_as(base) is not None and _factors(layer) is not None


def _factors(layer: Any) -> tuple[Any, Any, float, Any] | None:
    """A, B, scale and Dropout, if any, of a layer's only adapter, when that is LoRA as first described."""
    from peft.tuners.lora.layer import LoraLayer

    if not isinstance(layer, LoraLayer) or len(layer.lora_A) != 1 or list(layer.lora_A) != list(layer.active_adapters):
        return None
    (name,) = layer.lora_A
    drop = layer.lora_dropout[name]
    plain = type(drop) in (torch.nn.Identity, torch.nn.Dropout) and name not in layer.lora_variant
    a, b = layer.lora_A[name], layer.lora_B[name]
    if not plain or getattr(layer, "fan_in_fan_out", False) or a.bias is not None or b.bias is not None:
        return None
    return a.weight, b.weight, float(layer.scaling[name]), drop if isinstance(drop, torch.nn.Dropout) else None


def _whole(layer: Any) -> Any:
    """The weight of a linear layer that is itself trained, where that is all there is to it."""
    trained = type(layer) is torch.nn.Linear and layer.bias is None and layer.weight.requires_grad
    return layer.weight if trained else None


def _trained(layer: Module) -> bool:
    return _factors(layer) is not None or _whole(layer) is not None


def _silu(parent: Any) -> bool:
    kind = type(getattr(parent, "act_fn", None)).__name__
    return kind in ("SiLU", "SiLUActivation")


def _pieces(layers: Sequence[Any], how: _How) -> tuple[list[Piece], list[Any]]:
    pieces, factors = [], []
    for layer in layers:
        found = _factors(layer)
        base = getattr(layer, "base_layer", layer)
        a, b, scale, drop = found or (None, None, None, None)
        whole = _whole(layer)
        pieces.append(Piece(base, scale or 1.0, how.form, drop, how.low(a), how.low(b), how.low(whole)))
        factors += [a if whole is None else whole, b]
    return pieces, factors


@dataclass(frozen=True)
class _How:
    """How products are computed."""

    dtype: torch.dtype
    form: Form
    copies: _Copies | None
    eight_bits: Adapters | None

    def eight(self, pieces: Sequence[Piece]) -> eight.Weights | None:
        """The weights of pieces that read one input in 8 bits, if that is wanted and they can be held so."""
        bases = [piece.layer for piece in pieces]
        if self.eight_bits is None or not eight.fits(bases):
            return None
        return eight.Weights.of(bases, self.eight_bits.columns(pieces))

    def low(self, parameter: Tensor | None) -> Low | None:
        """What gives a parameter in the precision of the products."""
        if parameter is None:
            return None
        if self.copies is None or parameter.dtype == self.dtype:
            return partial(_cast, parameter, self.dtype)
        return partial(_identity, self.copies.of(parameter))


def _identity(tensor: Tensor) -> Tensor:
    return tensor


def _cast(parameter: Tensor, dtype: torch.dtype) -> Tensor:
    return parameter.detach().to(dtype)


class _Copies:
    """The adapters in the precision of the products: copied once for each pass through the model, all at once."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._parameters: list[Tensor] = []
        self._copies: list[Tensor] = []

    def of(self, parameter: Tensor) -> Tensor:
        self._parameters.append(parameter)
        self._copies.append(parameter.detach().to(self._dtype, copy=True))
        return self._copies[-1]

    def refresh(self, *_: Any) -> None:
        if not self._copies:
            return
        # Looked up anew: what wraps a model for several processes gives parameters other memory.
        torch._foreach_copy_(self._copies, [parameter.detach() for parameter in self._parameters])


def _plain(layers: Sequence[Any]) -> bool:
    """Whether a layer's adapter is shut off or already in its weight, which peft's own forward heeds."""
    return any(getattr(layer, "disable_adapters", False) or getattr(layer, "merged", False) for layer in layers)


def _groups(model: Any, done: set[Module]) -> Iterator[list[Module]]:
    """Layers with adapters that remain: those that read one input together, others alone."""
    for parent in model.modules():
        for names in TOGETHER:
            layers = [one for one in _children(parent, names) if one not in done and _trained(one)]
            # Those that read another input, as keys across attention do, stand alone.
            widths = [base.in_features for base in _bases(layers)]
            if layers and len(set(widths)) == 1:
                done.update(layers)
                yield layers
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for layer in model.modules():
        if layer not in done and layer is not head and _trained(layer) and _known(layer):
            done.add(layer)
            yield [layer]


class _Group:
    """Layers that read one input: the first that is called computes all, the others hand theirs out."""

    def __init__(self, layers: Sequence[Any], how: _How) -> None:
        self.layers, self.dtype = layers, how.dtype
        self.pieces, self.factors = _pieces(layers, how)
        self._weights = how.eight(self.pieces)
        self._read: Tensor | None = None
        self._made: list[Tensor | None] = [None] * len(layers)

    def forward(self, own: Callable[..., Tensor], index: int, x: Tensor) -> Tensor:
        if _plain(self.layers):
            return own(x)
        if self._read is not x or self._made[index] is None:
            self._made = list(self._computed(x.to(self.dtype)))
            self._read = x
        made, self._made[index] = self._made[index], None
        if all(one is None for one in self._made):
            self._read = None
        assert made is not None
        return made

    def _computed(self, x: Tensor) -> tuple[Tensor, ...]:
        made: tuple[Tensor, ...]
        if self._weights is None:
            made = Linears.apply(self.pieces, x, *self.factors)
        else:
            made = eight.EightLinears.apply(self.pieces, self._weights, x, *self.factors)
        return made


def _take_group(layers: Sequence[Any], how: _How) -> None:
    group = _Group(layers, how)
    for index, layer in enumerate(layers):
        layer.forward = partial(group.forward, layer.forward, index)


def _take_mlp(parent: Any, layers: Sequence[Any], how: _How) -> bool:
    """Compute a gated MLP as one; False where it computes something else, or has nothing to gain."""
    bases = _bases(layers)
    if not any(map(_trained, layers)) or any(base.bias is not None for base in bases):
        return False
    pieces, factors = _pieces(layers, how)
    own = parent.forward
    weights: list[tuple[eight.Weights, eight.Weights]] = []

    def forward(x: Tensor) -> Tensor:
        made: Tensor
        if _plain(layers):
            made = own(x)
        elif weights:
            made = eight.EightMLP.apply(pieces, weights[0], x.to(how.dtype), *factors)
        else:
            made = GatedMLP.apply(pieces, x.to(how.dtype), *factors)
        return made

    if not _agree(own, forward, bases[0].in_features, how.dtype, layers[0]):
        return False
    if eight.fits(bases) and (both := how.eight(pieces[:2])) and (last := how.eight(pieces[2:])):
        weights.append((both, last))
    parent.forward = forward
    return True


def _bases(layers: Sequence[Any]) -> list[Any]:
    return [getattr(layer, "base_layer", layer) for layer in layers]


def _agree(own: Any, ours: Any, width: int, dtype: torch.dtype, layer: Module) -> bool:
    """Whether both give the same on a random input, as in training: without gradients bitsandbytes lays 4-bit weights
    out anew on a CPU, and for good."""
    device = next(layer.parameters()).device
    x = torch.randn(2, width, dtype=dtype, device=device, generator=torch.Generator(device).manual_seed(0))
    x.requires_grad_()
    low = dtype in (torch.bfloat16, torch.float16)
    with (
        torch.enable_grad(),
        torch.autocast(device.type, dtype, enabled=low),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
    ):
        seed_device(0, device)
        expected = own(x).detach()
        seed_device(0, device)
        found = ours(x).detach()
    return bool((expected - found).abs().max() <= CLOSE * expected.abs().max())
