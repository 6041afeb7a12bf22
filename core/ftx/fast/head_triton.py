"""Cross entropy and its gradient in two passes over a row of logits. Imported where Triton is."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 8192


@triton.jit
def _kernel(logits_at, stride, targets_at, losses_at, words: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    logits_at += row * stride
    target = tl.load(targets_at + row)
    largest = float("-inf")
    total = 0.0
    for start in range(0, words, block):
        at = start + tl.arange(0, block)
        logit = tl.load(logits_at + at, at < words, float("-inf")).to(tl.float32)
        larger = tl.maximum(largest, tl.max(logit))
        total = total * tl.exp(largest - larger) + tl.sum(tl.exp(logit - larger))
        largest = larger
    log_total = largest + tl.log(total)
    counts = target >= 0
    of_target = tl.load(logits_at + target, counts, 0.0).to(tl.float32)
    tl.store(losses_at + row, tl.where(counts, log_total - of_target, 0.0))
    tl.debug_barrier()  # the target's logit is read before it is written over
    for start in range(0, words, block):
        at = start + tl.arange(0, block)
        logit = tl.load(logits_at + at, at < words, float("-inf")).to(tl.float32)
        gradient = tl.where(counts, tl.exp(logit - log_total) - (at == target), 0.0)
        tl.store(logits_at + at, gradient.to(logits_at.dtype.element_ty), at < words)


def loss_and_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """As ftx.fast.head.loss_and_gradient."""
    losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    _kernel[(logits.shape[0],)](logits, logits.stride(0), targets, losses, logits.shape[1], BLOCK, num_warps=16)
    return losses
