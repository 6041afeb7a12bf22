"""The other processes of a run, of this machine and of others: joined, and missed when they are gone."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from ftx.errors import Stalled

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ftx.plan import Plan

GLOO = "gloo"  # its errors have no class of their own


def joined(plan: Plan) -> Accelerator:
    """Meet the other processes that torchrun or the variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT tell of."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    train = plan.recipe.train
    waiting = InitProcessGroupKwargs(timeout=timedelta(seconds=train.stall_seconds))
    return Accelerator(cpu=train.device == "cpu" or not torch.cuda.is_available(), kwargs_handlers=[waiting])


def stalled(error: Exception, plan: Plan) -> Stalled | None:
    """What to tell the user, where `error` comes of another process that is gone or does not answer."""
    import torch

    if not (isinstance(error, torch.distributed.DistError) or GLOO in str(error).lower()):
        return None
    return Stalled(
        "another process of this run ended or did not answer (train.stall_seconds is "
        f"{plan.recipe.train.stall_seconds}); look at its log, then start all of them again with --resume auto"
    )
