"""Activations made again in the backward pass, layer by layer, and what they are made from kept in host memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from ftx.fast.products import again

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

LARGE = 1 << 20  # bytes from which a tensor is worth a transfer
# Layers that end in the sum with what their gated MLP gives, and hold nothing that chooses, as a router does.
PLAIN = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}


def recompute(model: Any, share: float = 1.0, *, offload: bool = False) -> int:
    """Make the first `share` of each stack of layers compute again in the backward pass; how many layers that is.

    A stack's last layer keeps its activations: they are needed first, when nothing else has been made again yet.
    With `offload` the inputs of those layers wait in host memory, on a GPU.
    """
    drops = draws(model)
    store = _HostStore() if offload and next(model.parameters()).is_cuda else None
    if store:
        model.register_forward_pre_hook(store.forget)
    count = 0
    for stack in _stacks(model):
        for layer in stack[: min(round(share * len(stack)), len(stack) - 1)]:
            last_unasked = type(layer).__name__ in PLAIN
            trained = any(p.requires_grad for p in layer.parameters())
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(_run, store, last_unasked, drops, trained)
            count += 1
    return count


def draws(model: Any) -> bool:
    """Whether a pass draws random numbers: by a module that drops, or by a share of it in the config."""
    if any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules()):
        return True
    config = model.config.to_dict()
    sections = [config, *(value for value in config.values() if isinstance(value, dict))]
    named = [value for one in sections for name, value in one.items() if "drop" in str(name) or "jitter" in str(name)]
    return any(isinstance(value, float) and value > 0 for value in named)


def _stacks(model: Module) -> Iterator[list[Any]]:
    """The layers that transformers can compute again, stack by stack."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in model.modules():
        layers = list(module) if isinstance(module, torch.nn.ModuleList) else []
        if found := [layer for layer in layers if isinstance(layer, GradientCheckpointingLayer)]:
            yield found


def _run(
    store: _HostStore | None, last_unasked: bool, drops: bool, trained: bool, layer: Callable[..., Any], *given: Any
) -> Any:
    if not (trained or any(isinstance(one, torch.Tensor) and one.requires_grad for one in given)):
        return layer(*given)  # no gradient comes back to it
    kept = saved_tensors_hooks(store.put, store.get) if store else nullcontext()
    with kept:
        return checkpoint(
            layer,
            *given,
            use_reentrant=False,
            preserve_rng_state=drops,
            context_fn=partial(_contexts, last_unasked),
        )


def _contexts(last_unasked: bool) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _made_again() if last_unasked else nullcontext()


@contextmanager
def _made_again() -> Iterator[None]:
    """The layer ends in a sum with its last product, which no gradient asks for."""
    again.without_last = True
    try:
        yield
    finally:
        again.without_last = False


@dataclass(eq=False)
class _Held:
    """A tensor in pinned host memory, and on the device again once it is asked back."""

    host: Tensor
    device: torch.device
    back: Tensor | None = None


class _HostStore:
    """Takes tensors to host memory and back beside the computation; the last taken is the first needed.

    Streams wait for each other by what is queued, never by what has run, so that a pass can be recorded; for that host
    buffers are kept too, in the order of a pass, each of a power of two so that few sizes need new ones.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._held: list[_Held] = []
        self._buffers: list[Tensor] = []
        self._busy = False
        self._outgrown: list[Tensor] = []
        self._leaving: Tensor | None = None  # kept until it has been read

    def forget(self, *_: Any) -> None:
        """Begin a pass: what the last one never asked back is of no use any more."""
        self._held.clear()

    def put(self, tensor: Tensor) -> Any:
        if not tensor.is_cuda or tensor.nbytes < LARGE or isinstance(tensor, torch.nn.Parameter):
            return tensor
        self._settle()
        held = _Held(self._buffer(tensor), tensor.device)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            held.host.copy_(tensor, non_blocking=True)
        self._leaving, self._busy = tensor, True
        self._held.append(held)
        return held

    def _settle(self) -> None:
        """Let the computation wait for the transfers so far, after which what they read and wrote is free for it."""
        if self._busy:  # a recording may not wait for what was queued before it
            torch.cuda.current_stream().wait_stream(self._stream)
        self._leaving, self._busy = None, False

    def _buffer(self, tensor: Tensor) -> Tensor:
        at = len(self._held)
        if at == len(self._buffers):
            self._buffers.append(tensor.new_empty(0, device="cpu"))
        if self._buffers[at].numel() < tensor.numel() or self._buffers[at].dtype != tensor.dtype:
            self._outgrown.append(self._buffers[at])  # recordings made with it go on reading it
            self._buffers[at] = _registered(torch.empty(1 << (tensor.numel() - 1).bit_length(), dtype=tensor.dtype))
        return self._buffers[at][: tensor.numel()].view(tensor.shape)

    def get(self, held: Any) -> Tensor:
        if not isinstance(held, _Held):
            tensor: Tensor = held
            return tensor
        self._fetch(held)
        self._settle()
        if held in self._held:
            self._held.remove(held)
        if self._held:  # the next layer's, while this one is computed
            self._fetch(self._held[-1])
        assert held.back is not None
        return held.back

    def _fetch(self, held: _Held) -> None:
        if held.back is not None:
            return
        held.back = torch.empty(held.host.shape, dtype=held.host.dtype, device=held.device)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            held.back.copy_(held.host, non_blocking=True)
        self._busy = True


def _registered(tensor: Tensor) -> Tensor:
    """A host tensor whose pages the GPU may read and write by itself, as long as it lives.

    torch's own pinned memory marks each transfer by an event, which a recording cannot hold.
    """
    runtime = torch.cuda.cudart()
    failed = int(runtime.cudaHostRegister(tensor.data_ptr(), tensor.nbytes, 0))
    if failed:
        raise torch.OutOfMemoryError(f"the system locks no {tensor.nbytes} bytes of host memory (CUDA error {failed})")
    weakref.finalize(tensor, runtime.cudaHostUnregister, tensor.data_ptr())
    return tensor
