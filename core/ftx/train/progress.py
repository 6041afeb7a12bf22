"""What each step found: its loss and gradient norm, read, checked and reported."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftx.errors import TrainingError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from ftx.run import Run


def late(device: torch.device) -> bool:
    """Whether a step's numbers are read while the next step is computed."""
    return device.type == "cuda"


@dataclass
class _Found:
    """Of step `step`, from 1: `numbers`, on the host once `there`, are the loss, the norm, and who asks to stop."""

    step: int
    lr: float
    tokens: int
    numbers: torch.Tensor
    there: torch.cuda.Event | None
    read: tuple[float, float] | None = None


class Progress:
    """The steps of a run as they end.

    A GPU has its next step queued before the numbers of this one are waited for, or it would stand idle each time:
    there a step is read while the next is computed. A number that is not finite may then have reached the weights,
    which are never saved: before something is saved or asked, all steps are waited for.

    All processes read the same steps at the same time, so that all see `stopping`, that one of them was asked to stop,
    and numbers that are not finite, in the same step.
    """

    def __init__(self, run: Run, accelerator: Accelerator, done: int) -> None:
        """`done`: steps that were made before."""
        self._run, self._accelerator = run, accelerator
        self._late = late(accelerator.device)
        self._queue: deque[_Found] = deque()
        self.stopping = False
        self._pace = _Pace(done)

    def take(self, step: int, share: torch.Tensor, norm: torch.Tensor, lr: float, tokens: int, *, stop: bool) -> None:
        """Queue what step `step` found: this process's `share` of the loss, the norm, whether it was asked to stop.

        Called by all processes, before the optimizer's step. Raises TrainingError where it is read at once and is not
        finite.
        """
        import torch

        both = torch.stack([share, torch.full_like(share, float(stop))])
        loss, asked = self._accelerator.reduce(both, "sum")
        numbers = torch.stack([loss, norm.to(loss), asked])
        there = None
        if numbers.is_cuda:
            # Copied right behind the step: a copy that is asked for later would wait for the next one, too.
            numbers, there = numbers.to("cpu", non_blocking=True), torch.cuda.Event()  # type: ignore[no-untyped-call]
            there.record()
        self._queue.append(_Found(step, lr, tokens, numbers, there))
        if not self._late:
            self._read(self._queue[-1])

    def report(self, *, all_steps: bool) -> None:
        """Report the steps that have ended: with `all_steps` each, otherwise those that need no waiting for the last.

        Raises TrainingError for one that is not finite.
        """
        left = 1 if self._late and not all_steps else 0
        while len(self._queue) > left:
            found = self._queue.popleft()
            self._report(found, *(found.read or self._read(found)))

    def leave_out(self, seconds: float) -> None:
        """Take time that was not spent on training off its pace."""
        self._pace.leave_out(seconds)

    def _read(self, found: _Found) -> tuple[float, float]:
        if found.there is not None:
            found.there.synchronize()
        loss, norm, asked = found.numbers.tolist()
        self.stopping = self.stopping or asked > 0
        self._refuse_non_finite(found.step, loss, norm)
        found.read = loss, norm
        return found.read

    def _refuse_non_finite(self, step: int, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        kept = self._run.checkpoints()
        advice = f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint was saved yet"
        raise TrainingError(
            f"step {step}: loss {loss} and gradient norm {norm} are not finite; lower train.lr or use "
            f"train.dtype=float32; {advice}"
        )

    def _report(self, found: _Found, loss: float, norm: float) -> None:
        self._pace.add(found.tokens)
        if not self._run.main:
            return
        plan, step = self._run.plan, found.step
        metrics: dict[str, Any] = {
            "loss": loss,
            "grad_norm": norm,
            "lr": found.lr,
            "tokens_per_s": round(self._pace.tokens_per_s(), 1),
            "eta_s": round(self._pace.eta(step, plan.steps), 1),
        }
        epoch = {} if plan.feed.endless else {"epoch": round(step / plan.steps_per_epoch, 3)}
        self._run.event("step", step=step, steps=plan.steps, **epoch, **metrics)
        plan.registry.pm.hook.ftx_step_done(run=self._run, step=step, metrics=metrics)


class _Pace:
    """Tokens and time since training (again) began after step `done`."""

    def __init__(self, done: int) -> None:
        self._began = time.monotonic()
        self._done = done
        self._tokens = 0

    def add(self, tokens: int) -> None:
        self._tokens += tokens

    def leave_out(self, seconds: float) -> None:
        self._began += seconds

    def tokens_per_s(self) -> float:
        return self._tokens / (time.monotonic() - self._began)

    def eta(self, step: int, steps: int) -> float:
        """Seconds until `steps`, at the mean pace up to `step`."""
        return (time.monotonic() - self._began) / (step - self._done) * (steps - step)
