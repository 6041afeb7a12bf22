"""Micro-batches so small that on a CPU transformers and peft compute them the faster.

Our operations save passes over tensors, and take steps of their own for that. It is told by size, as it was measured
(benchmarks/results/train_cpu.txt), and not tried anew in each run: two runs of a recipe shall agree to the bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ftx.plan import Plan

LITTLE = 1 << 15  # numbers in a micro-batch's hidden states: tokens times width


def little(model: PreTrainedModel, plan: Plan) -> bool:
    """Whether a micro-batch of the plan is that small, and the model on a CPU."""
    if next(model.parameters()).device.type != "cpu":
        return False
    samples = plan.ledger.samples if plan.recipe.data.packing == "none" else 0
    row = plan.ledger.tokens / samples if samples else plan.recipe.data.max_length
    return plan.micro_batch_size * row * int(model.config.get_text_config().hidden_size) < LITTLE
