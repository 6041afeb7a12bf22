"""Whether a model keeps the samples of a row apart: by our attention within bounds, by positions, or not at all.

What a model says of itself does not tell: layers may swallow bounds, mix neighbours by a convolution or a state, or
make masks of their own. So one small row of two samples is sent through the model as it will be trained, and back: what
the second gives has a gradient of exactly zero in the first, or else it sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftx.data.collate import collate, on_device
from ftx.data.store import Sample
from ftx.errors import RecipeError
from ftx.rope import turn_samples_apart
from ftx.train.little import little

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ftx.plan import Plan

LENGTHS = (5, 8)  # tokens of the two samples: unequal, as bounds of equal ones would make a plain batch


def keep_apart(model: PreTrainedModel, plan: Plan, dtype: torch.dtype) -> bool:
    """Have the model keep samples apart as the plan needs it; whether they may stand end to end, by their bounds.

    `dtype` is that of products. Raises RecipeError for packed rows whose samples would see each other.
    """
    train, max_length = plan.recipe.train, plan.recipe.data.max_length
    turn_samples_apart(model, max_length)
    padded = not plan.feed.isolated and little(model, plan)
    if train.attention == "auto" and plan.family.varlen and not padded and adopt(model, max_length, dtype):
        return True
    if plan.feed.isolated and not apart(model, dtype):
        raise RecipeError(
            "data.packing: in a packed row this model's samples would see each other (its layers do not heed where "
            "one ends); leave best_fit out"
        )
    return False


def adopt(model: PreTrainedModel, max_length: int, dtype: torch.dtype) -> bool:
    """Give the language model attention within bounds, where it can be given; whether it was.

    Samples have `max_length` tokens at most: a window that long is none.
    """
    from ftx.fast import attention

    language = model.get_decoder()
    one_way = all(getattr(module, "is_causal", True) for module in language.modules())
    if not one_way or not attention.served(type(language), language.config):
        return False
    before = language.config._attn_implementation
    with _windows() as reached:
        language.set_attn_implementation(attention.NAME)
        try:
            kept = apart(model, dtype, end_to_end=True)
        except attention.Unserved:
            kept = False
    if not kept or not _whole(language.config, reached, max_length):
        language.set_attn_implementation(before)
        return False
    return True


@contextmanager
def _windows() -> Iterator[list[int | None]]:
    """The window of each call of the attention within bounds meanwhile."""
    from ftx.fast import attention

    reached: list[int | None] = []

    def watched(*given: Any, **named: Any) -> Any:
        reached.append(named.get("sliding_window"))
        return attention.attend(*given, **named)

    attention.register(watched)
    try:
        yield reached
    finally:
        attention.register()


def _whole(config: Any, reached: list[int | None], max_length: int) -> bool:
    """Whether the window of a model reached attention in every layer that has one: some models put it into masks."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    if not window or window >= max_length:
        return True
    kinds = getattr(text, "layer_types", None)
    return reached.count(window) >= (kinds.count("sliding_attention") if kinds else max(len(reached), 1))


def apart(model: PreTrainedModel, dtype: torch.dtype, *, end_to_end: bool = False) -> bool:
    """Whether a sample behind another is computed as if that were not there; `end_to_end` as collate has it.

    Neither parameters nor random numbers are touched, and the model must not be in training mode.
    """
    import torch

    embedding, words = model.get_input_embeddings(), []

    def met(module: torch.nn.Module, given: tuple[Any, ...], out: torch.Tensor) -> torch.Tensor:
        words.append(out.detach().requires_grad_())
        return words[-1].clone()  # which models may change in place

    device = embedding.weight.device
    watch = embedding.register_forward_hook(met)
    try:
        with torch.enable_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(**on_device(_two_samples(end_to_end), device)).logits
            behind = logits[0, LENGTHS[0] :].float().square().sum()
        (gradient,) = torch.autograd.grad(behind, words[:1], allow_unused=True)
    finally:
        watch.remove()
    return gradient is not None and not bool(gradient[0, : LENGTHS[0]].any())


def _two_samples(end_to_end: bool) -> dict[str, Any]:
    """A row of two samples as training has them, of any tokens."""
    import numpy as np

    ids = np.arange(3, 3 + sum(LENGTHS), dtype=np.int32)
    samples = [Sample(part, np.ones(len(part), bool)) for part in np.split(ids, [LENGTHS[0]])]
    batch = collate([samples], 0, isolated=True, end_to_end=end_to_end)
    del batch["labels"]
    return batch
