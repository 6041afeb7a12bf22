"""Cross entropy of a head's words without ever holding them all.

The head's product, the loss and its gradient are made for some tokens at a time, in one place: for InternLM2's 92,544
words and 8,192 tokens the logits alone would take 3 GB in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ftx.fast.kernels import triton_runs

if TYPE_CHECKING:
    from torch import Tensor


class HeadLoss(torch.autograd.Function):
    """Cross entropy summed over tokens, float64 [].

    apply(hidden [tokens, width], weight [words, width], targets int64 [tokens], tokens at a time). The gradients are
    made along with the loss, as the logits are there only once; the weight's is made where it is asked for.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, at_once: int) -> Tensor:
        dense = weight.to(hidden.dtype)
        each = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        dhidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        dweight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for start in range(0, hidden.shape[0], at_once):
            part = slice(start, start + at_once)
            logits = torch.mm(hidden[part], dense.t())
            each[part] = loss_and_gradient(logits, targets[part])
            if dhidden is not None:
                torch.mm(logits, dense, out=dhidden[part])
            if dweight is not None:
                _add_product(dweight, logits.t(), hidden[part])
        ctx.save_for_backward(dhidden, dweight)
        return each.double().sum()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        made = [None if one is None else one.mul_(given[0].to(one.dtype)) for one in ctx.saved_tensors]
        return made[0], made[1], None, None


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
