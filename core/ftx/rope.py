"""Rotary positions of samples that share a row or a batch: each as long as it is, whatever stands beside it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.nn import Module

    Turned = tuple[Tensor, Tensor]


def sequence_lengths(position_ids: Tensor) -> Tensor:
    """For each token, int64 [rows, tokens], the length of its sequence: the largest position in it and one more."""
    rows, tokens = position_ids.shape
    begins = torch.ones_like(position_ids, dtype=torch.bool)
    begins[:, 1:] = position_ids.diff(dim=-1) != 1
    number = begins.flatten().cumsum(0) - 1
    longest = torch.zeros(rows * tokens, dtype=position_ids.dtype, device=position_ids.device)
    longest.scatter_reduce_(0, number, position_ids.flatten(), "amax")
    return (longest[number] + 1).view(rows, tokens)


def looks_at_lengths(module: Module) -> bool:
    """Whether a module is a rope whose frequencies hang on how long a sequence is."""
    kinds = getattr(module, "rope_type", "default")
    return any(_by_length(kind) for kind in (kinds.values() if isinstance(kinds, dict) else [kinds]))


def _by_length(kind: Any) -> bool:
    return kind == "longrope" or "dynamic" in str(kind)


def turn_samples_apart(model: Module, max_length: int) -> int:
    """Have transformers' ropes, which turn a whole batch by its longest position, turn each sample by its own.

    How many those are. Left alone are ropes whose trained length no sample of `max_length` passes, and those that tell
    samples apart already, which have `asks_beyond`.
    """
    ropes = [one for one in model.modules() if looks_at_lengths(one) and not hasattr(one, "asks_beyond")]
    beyond = [one for one in ropes if max_length > _least_trained(one)]
    for rope in beyond:
        rope.forward = partial(_apart, rope, rope.forward)
        rope.asks_beyond = _least_trained(rope)  # type: ignore[assignment]
    return len(beyond)


def _least_trained(rope: Any) -> int:
    kinds = rope.rope_type if isinstance(rope.rope_type, dict) else [None]
    return min(_trained(rope, layer_type) or 1 << 62 for layer_type in kinds)


def _kind(rope: Any, layer_type: str | None) -> Any:
    return rope.rope_type if layer_type is None else rope.rope_type[layer_type]


def _trained(rope: Any, layer_type: str | None) -> int | None:
    """Tokens up to which a rope's frequencies are fixed; None where they always are."""
    kind = _kind(rope, layer_type)
    values = rope.config.rope_parameters if layer_type is None else rope.config.rope_parameters[layer_type]
    if kind == "longrope":
        return int(values["original_max_position_embeddings"])
    return int(rope.original_max_seq_len) if _by_length(kind) else None


def _apart(
    rope: Any, own: Callable[..., Turned], x: Tensor, position_ids: Tensor, layer_type: str | None = None
) -> Turned:
    """What `own` gives, [rows, tokens, width] twice, computed for samples of each length by themselves."""
    named = {} if layer_type is None else {"layer_type": layer_type}
    trained = _trained(rope, layer_type)
    if trained is None:
        return own(x, position_ids, **named)
    lengths = sequence_lengths(position_ids).clamp(min=trained)
    if _kind(rope, layer_type) == "longrope":
        lengths = lengths.clamp(max=trained + 1)  # short or long, and nothing between
    made: Turned | None = None
    for length in torch.unique(lengths).tolist():
        own(x, position_ids.new_zeros(1, 1), **named)  # takes back what a longer sample left behind
        of_length = lengths == length
        turned = own(x, position_ids[of_length].unsqueeze(0), **named)
        made = made or tuple(one.new_empty(*lengths.shape, one.shape[-1]) for one in turned)  # type: ignore[assignment]
        for whole, part in zip(made, turned, strict=True):  # type: ignore[arg-type]
            whole[of_length] = part[0]
    assert made is not None
    return made
