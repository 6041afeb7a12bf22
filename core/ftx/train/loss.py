"""The loss, of labelled positions alone: logits that no label asks for are never computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftx.data.template import IGNORE

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def asked(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """What labels, int64 [rows, tokens], ask for: the places before labelled tokens, and the tokens, int64 [count].

    `places` count through all rows, one after the other. Made beside the data, where no device is waited for.
    """
    import torch

    wanted = torch.full_like(labels, IGNORE)
    wanted[:, :-1] = labels[:, 1:]
    places = (wanted != IGNORE).flatten().nonzero().squeeze(1)
    return {"places": places, "targets": wanted.flatten()[places]}


def loss_sum(model: PreTrainedModel, batch: dict[str, Any], head_tokens: int | None = None) -> torch.Tensor:
    """Cross entropy summed over the labelled tokens of `batch`; each position predicts the next.

    `model` may be wrapped for several processes; `batch` holds `places` and `targets` as `asked` gives them. Each
    token's loss is float32, their sum float64, so that its rounding does not depend on how rows are grouped. With
    `head_tokens` that many meet the head at a time and their logits are not kept, for a model that passes
    `ends_in_head`.
    """
    import torch.nn.functional as F

    inputs = {name: value for name, value in batch.items() if name not in ("places", "targets")}
    head = getattr(model, "module", model).get_output_embeddings()
    with _only(head, batch["places"]):
        if head_tokens is not None and len(batch["targets"]):
            with _instead(head, lambda hidden: _fused(head, hidden, batch["targets"], head_tokens)):
                made: torch.Tensor = model(**inputs).logits
                return made
        logits = model(**inputs).logits
    each = F.cross_entropy(logits.flatten(0, 1).float(), batch["targets"], reduction="none")
    return each.double().sum()


def _fused(head: torch.nn.Module, hidden: torch.Tensor, targets: torch.Tensor, at_once: int) -> torch.Tensor:
    import torch

    from ftx.fast.head import HeadLoss

    flat = hidden.squeeze(0)
    kind = flat.device.type
    low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else flat.dtype
    with torch.autocast(kind, enabled=False):
        found: torch.Tensor = HeadLoss.apply(flat.to(low), head, head.weight, targets, at_once)
    return found


def ends_in_head(model: PreTrainedModel) -> bool:
    """Whether a model's logits are what a plain linear head gives, so that a loss may take the head's place."""
    import torch

    from ftx.fast.weight import stored_as

    head = model.get_output_embeddings()
    if stored_as(head) is None or head.bias is not None:
        return False
    made: list[torch.Tensor] = []
    watch = head.register_forward_hook(lambda module, given, out: made.append(out))
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.zeros(1, 4, dtype=torch.long, device=head.weight.device)).logits
    finally:
        watch.remove()
    return len(made) == 1 and torch.equal(made[0], logits)


@contextmanager
def _only(head: torch.nn.Module, places: torch.Tensor) -> Iterator[None]:
    """Let `head` see the hidden states, [rows, tokens, width], of `places` alone, as one row.

    What models do to logits behind the head, as capping them, they do to each alone.
    """

    def chosen(_: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return given[0].flatten(0, 1).index_select(0, places).unsqueeze(0), *given[1:]

    handle = head.register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _instead(head: torch.nn.Module, forward: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Let `head` compute `forward`."""
    before = vars(head).get("forward")  # of one that the fast path has taken over
    head.forward = forward
    try:
        yield
    finally:
        del head.forward
        if before is not None:
            head.forward = before
