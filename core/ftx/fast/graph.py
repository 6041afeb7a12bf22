"""A pass forward and backward recorded once and played again: nothing is launched kernel by kernel.

On a fast GPU small kernels end before Python has launched the next. A recording (CUDA graph) has them all at hand, but
only for tensors of the very same shapes, at the very same addresses: batches are evened out to few shapes, and copied
to where the recording reads.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch

from ftx.data.collate import on_device
from ftx.data.template import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

TARGETS = 1024  # labelled tokens are counted up to a multiple of this
SAMPLES = 32  # and samples of this
FULL = 0.9  # the share of its places that a batch must fill to be evened out to all of them
MOST = 12  # recordings kept
BEFORE = 2  # passes of a shape before it is recorded
SHARE = 0.04  # of all passes so far that are of its shape
LEFT = 1 << 12  # bytes that a pass leaves: its loss

Loss = Callable[[dict[str, Any]], "Tensor"]


def even_out(batch: dict[str, Any], capacity: int, pad_id: int) -> dict[str, Any]:
    """A batch of samples end to end, as collate gives it with `places` and `targets`, in one of few shapes.

    Behind the samples stand further ones of padding, up to `capacity` tokens, and of no tokens; the longest counts as
    the next power of two; `targets` are filled with IGNORE. A batch that is much shorter, or whose samples are of one
    length, stays as it is but for its targets.
    """
    tokens, bounds = batch["input_ids"].shape[1], batch["cu_seq_lens_q"]
    uniform = (len(bounds) - 1) * batch["max_length_q"] == tokens
    batch = {**batch, **_even_targets(batch["places"], batch["targets"])}
    if uniform or not FULL * capacity <= tokens <= capacity:
        return batch
    longest = 1 << (batch["max_length_q"] - 1).bit_length()
    more = capacity - tokens
    ends = [*range(tokens, capacity, longest)][1:] + [capacity] * bool(more)
    count = len(bounds) + len(ends)
    ends += [capacity] * (-count % SAMPLES)
    return {
        **batch,
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, more), value=pad_id),
        "position_ids": torch.cat([batch["position_ids"], (torch.arange(more) % longest)[None]], dim=1),
        "cu_seq_lens_q": torch.cat([bounds, torch.tensor(ends, dtype=bounds.dtype)]),
        "max_length_q": longest,
    }


def _even_targets(places: Tensor, targets: Tensor) -> dict[str, Tensor]:
    more = -len(targets) % TARGETS
    pad = torch.nn.functional.pad
    return {"places": pad(places, (0, more)), "targets": pad(targets, (0, more), value=IGNORE)}


class Recordings:
    """Passes of one model by the shapes of their batches.

    A shape is computed as ever until it has come a few times, and often enough to pay. Gradients are added to those
    that parameters have.

    Recordings, and passes beside them, take turns in one memory: each by itself would keep what a pass takes. So
    nothing that a pass makes may outlive it, but gradients, which are there before.
    """

    def __init__(self, parameters: list[Tensor], loss: Loss) -> None:
        """`loss` computes a batch's loss from tensors on the device, and waits for none of them."""
        self._parameters, self._loss = parameters, loss
        self._met: Counter[tuple[Any, ...]] = Counter()
        self._made: dict[tuple[Any, ...], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._most = MOST
        self._inputs: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._pool = torch.cuda.MemPool()
        self._aside = torch.cuda.Stream()  # memory is a stream's own, and so is the workspace of its products
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def __call__(self, batch: dict[str, Any]) -> Tensor:
        """The loss, detached; `batch` may lie in pinned host memory."""
        key = tuple((name, tuple(v.shape) if isinstance(v, torch.Tensor) else v) for name, v in sorted(batch.items()))
        self._met[key] += 1
        often = self._met[key] > max(BEFORE, SHARE * self._met.total())
        if key not in self._made and often and len(self._made) < self._most:
            self._made[key] = self._record(batch)
        if key in self._made:
            graph, loss = self._made[key]
            self._given(batch)
            with self._there():  # memory that is given back is waited for on its own stream alone
                graph.replay()
            return loss.clone()
        batch = on_device(batch, torch.device("cuda"))
        with self.beside():
            loss = self._pass(batch)
        return loss.clone()

    def _pass(self, batch: dict[str, Any]) -> Tensor:
        with torch.autograd.set_multithreading_enabled(False):  # memory is chosen for a thread
            loss = self._loss(batch)
            loss.backward()
        return loss.detach()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """What else is computed with the model, in the memory of recordings; nothing there is to outlive it."""
        if not self._made:
            yield
            return
        before = self._held()
        with self._there():
            yield
        if self._held() > before + LEFT:
            gc.collect()  # nobody will read what garbage holds
        if self._held() > before + LEFT:  # recordings would write over it
            self._made.clear()
            self._most = 0

    def _held(self) -> int:
        """Bytes that tensors hold in the memory of recordings."""
        return sum(segment["allocated_size"] for segment in self._pool.snapshot())

    @contextmanager
    def _there(self) -> Iterator[None]:
        """On the stream and in the memory of recordings, none of which runs meanwhile."""
        here = torch.cuda.current_stream()
        self._aside.wait_stream(here)
        with _no_collection(), torch.cuda.stream(self._aside), torch.cuda.use_mem_pool(self._pool):
            yield
        here.wait_stream(self._aside)

    def _given(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch where recordings of its shape read it."""
        given = dict(batch)
        for name, value in batch.items():
            if isinstance(value, torch.Tensor):
                key = name, tuple(value.shape)
                if key not in self._inputs:
                    self._inputs[key] = torch.empty_like(value, device="cuda")
                given[name] = self._inputs[key].copy_(value, non_blocking=True)
        return given

    def _record(self, batch: dict[str, Any]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        given = self._given(batch)
        # In host memory: beside a pass there may be no room for them.
        kept = [parameter.grad.cpu() for parameter in self._parameters if parameter.grad is not None]
        torch.cuda.empty_cache()  # what passes so far have used: recordings have memory of their own
        with self._there():  # once where it is recorded, so that nothing is set up while it is
            self._pass(given)
        for parameter, gradient in zip(self._parameters, kept, strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(gradient)
        graph, memory = torch.cuda.CUDAGraph(), cast("Any", self._pool.id)
        with _no_collection(), torch.cuda.graph(graph, memory, self._aside, capture_error_mode="thread_local"):
            loss = self._pass(given)
        return graph, loss


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage may hold others' recordings: torch ends the process where such memory is freed while it uses another."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
