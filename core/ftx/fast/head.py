"""Cross entropy of a head's words without ever holding them all.

The head's product, the loss and its gradient are made for some tokens at a time, in one place: for InternLM2's 92,544
words and 8,192 tokens the logits alone would take 3 GB in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from ftx.fast.kernels import triton_runs
from ftx.fast.weight import dense_rows, rounded_as

if TYPE_CHECKING:
    from torch import Tensor


WORDS = 8192  # of a quantised head that are made dense at a time


class HeadLoss(torch.autograd.Function):
    """Cross entropy summed over tokens, float64 [].

    apply(hidden [tokens, width], head, weight [words, width], targets int64 [tokens], tokens at a time), `head` being
    the layer that holds the weight, dense or in few bits. The gradients are made along with the loss, as the logits
    are there only once; the weight's is made where it is asked for.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Any, weight: Tensor, targets: Tensor, at_once: int) -> Tensor:
        each = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        dhidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        dweight = torch.zeros_like(weight) if ctx.needs_input_grad[2] else None
        rows = _rows(head, hidden.dtype)
        for start in range(0, hidden.shape[0], at_once):
            part = slice(start, start + at_once)
            logits = hidden.new_empty(len(hidden[part]), head.out_features)
            for words, dense in rows():
                torch.mm(hidden[part], dense.t(), out=logits[:, words])
            each[part] = loss_and_gradient(logits, targets[part])
            if dhidden is not None:
                for words, dense in rows():
                    _into(dhidden[part], logits[:, words], dense, first=not words.start)
            if dweight is not None:
                _add_product(dweight, logits.t(), hidden[part])
        ctx.save_for_backward(dhidden, dweight)
        return each.double().sum()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        made = [None if one is None else one.mul_(given[0].to(one.dtype)) for one in ctx.saved_tensors]
        return made[0], None, made[1], None, None


def _rows(head: Any, dtype: torch.dtype) -> Callable[[], Iterable[tuple[slice, Tensor]]]:
    """The head's weight in `dtype`, [words, width], and which words: whole where it is dense, else some at a time."""
    count = head.out_features
    if rounded_as(head) is None:
        whole = head.weight.to(dtype)
        return lambda: [(slice(0, count), whole)]
    starts = range(0, count, WORDS)
    return lambda: ((slice(a, b), dense_rows(head, dtype, a, b)) for a in starts for b in (min(a + WORDS, count),))


def _into(out: Tensor, x: Tensor, y: Tensor, *, first: bool) -> None:
    """Write x y into `out`, or add it to what is there after the first."""
    if first:
        torch.mm(x, y, out=out)
    else:
        out.addmm_(x, y)


def _add_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Add x y to `total`, in place; on a GPU in one product that sums as `total` does."""
    if x.dtype == total.dtype:
        total.addmm_(x, y)
    elif x.is_cuda:
        torch.addmm(total, x, y, out_dtype=total.dtype, out=total)
    else:
        total += torch.mm(x, y)


def loss_and_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """Each row's cross entropy, float32 [rows]; `logits`, [rows, words], become its gradient.

    A target below 0 asks for nothing.
    """
    if logits.is_cuda and triton_runs():
        from ftx.fast import head_triton

        return head_triton.loss_and_gradient(logits, targets)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    total = wide.logsumexp(-1, keepdim=True)
    at = targets.clamp(min=0).unsqueeze(-1)
    counts = targets >= 0
    each = (total - wide.gather(-1, at)).squeeze(-1)
    logits.copy_((wide - total).exp_())
    logits.scatter_add_(-1, at, torch.full_like(at, -1, dtype=logits.dtype))
    logits *= counts.unsqueeze(-1)
    return each.float() * counts
