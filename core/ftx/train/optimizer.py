"""AdamW, with its states in 32 or 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ftx.plan import Plan
    from ftx.train.memory import Memory


def make_optimizer(parameters: list[torch.nn.Parameter], plan: Plan, memory: Memory) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) as the recipe sets it.

    All parameters move in one kernel. Where memory is to be small, moments are held in 8 bits, block by block
    (Dettmers et al., arXiv 2110.02861).
    """
    import torch

    train = plan.recipe.train
    if memory.mode == "small":
        from ftx.fast.queued_adam import QueuedAdamW8bit

        return QueuedAdamW8bit(parameters, lr=plan.lr, betas=train.betas, weight_decay=train.weight_decay)
    return torch.optim.AdamW(parameters, lr=plan.lr, betas=train.betas, weight_decay=train.weight_decay, fused=True)
