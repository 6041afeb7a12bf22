"""The loss, of labelled positions alone: logits that no label asks for are never computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftx.data.template import IGNORE

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def loss_sum(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross entropy summed over the labelled tokens of `batch`; each position predicts the next.

    `model` may be wrapped for several processes. Each token's is float32, their sum float64, so that its rounding does
    not depend on how rows are grouped.
    """
    import torch.nn.functional as F

    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    targets = batch["labels"][:, 1:]
    asked = targets != IGNORE
    head = getattr(model, "module", model).get_output_embeddings()
    with _only(head, asked):
        logits = model(**inputs).logits
    each = F.cross_entropy(logits.flatten(0, 1).float(), targets[asked], reduction="none")
    return each.double().sum()


@contextmanager
def _only(head: torch.nn.Module, asked: torch.Tensor) -> Iterator[None]:
    """Let `head` see the hidden states, [rows, tokens, width], of positions before an `asked` token, as one row.

    What models do to logits behind the head, as capping them, they do to each alone.
    """

    def chosen(_: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return given[0][:, :-1][asked].unsqueeze(0), *given[1:]

    handle = head.register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        handle.remove()
