"""AdamW with moments in 8 bits whose step is only queued. Imported where bitsandbytes is."""

from __future__ import annotations

import torch
from bitsandbytes.optim import AdamW8bit


class QueuedAdamW8bit(AdamW8bit):  # type: ignore[misc]
    """bitsandbytes' AdamW8bit, number for number, less the wait for the GPU that its step makes for each parameter.

    Hundreds of those are in a step of adapters, and after each the GPU stands idle until the next is launched.
    """

    initialized: bool

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        assert closure is None
        if not self.initialized:
            self.check_overrides()
            self.to_gpu()
            self.initialized = True
        for index, group in enumerate(self.param_groups):
            for at, parameter in enumerate(group["params"]):
                if parameter.grad is None:
                    continue
                if not self.state[parameter]:
                    self.init_state(group, parameter, index, at)
                self.update_step(group, parameter, index, at)
