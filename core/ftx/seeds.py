"""Seeding what is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_device(seed: int, device: torch.device) -> None:
    """Seed torch for what is drawn on `device`.

    torch.manual_seed does so for every kind of accelerator, and writes down the whole stack for each that is not in
    use, which on a processor takes milliseconds at each step.
    """
    import torch

    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
