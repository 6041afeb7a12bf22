"""The dense form of a linear layer's weight, whatever it is stored as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftx.fast.kernels import triton_runs

if TYPE_CHECKING:
    import torch


def stored_as(layer: torch.nn.Module) -> str | None:
    """How a linear layer holds its weight: "dense", "nf4" or "int8"; None for a layer that is none of these."""
    import torch

    if hasattr(layer, "base_layer"):  # peft's around one, which has the name of bitsandbytes' own
        return None
    kind = type(layer).__name__
    if kind == "Linear4bit":
        return "nf4"
    if kind == "Linear8bitLt":
        return "int8"
    return "dense" if type(layer) is torch.nn.Linear else None


def rounded_as(module: torch.nn.Module) -> str | None:
    """How a linear layer or an embedding holds its weight in few bits: "nf4" or "int8"; None for any other."""
    kind = "int8" if type(module).__name__ == "Embedding8bit" else stored_as(module)
    return kind if kind != "dense" else None


def dense(layer: Any, dtype: torch.dtype) -> tuple[torch.Tensor, bool]:
    """The weight, [out, in] of `dtype`, and whether it was made for this call and may be written into."""
    kind = rounded_as(layer)
    weight = layer.weight
    if kind == "nf4":
        assert not getattr(weight.quant_state, "packing_format_for_cpu", False), "laid out anew: ftx.few_bits"
        if weight.is_cuda and triton_runs():
            from ftx.fast import nf4_triton

            if nf4_triton.fits(weight.quant_state):
                return nf4_triton.dense(weight.data, weight.quant_state, dtype), True
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state).to(dtype), True
    if kind == "int8":
        return _from_int8(layer, dtype), True
    return weight.to(dtype), weight.dtype != dtype


def dense_rows(layer: Any, dtype: torch.dtype, start: int, stop: int) -> torch.Tensor:
    """Rows of the dense weight of a layer, [stop - start, in], of which no more is made dense where that can be.

    Of nf4 it can where rows begin and end with whole blocks of constants.
    """
    kind = rounded_as(layer)
    if kind == "int8":
        return _from_int8(layer, dtype, slice(start, stop))
    if kind == "nf4" and (part := _nf4_rows(layer, start, stop)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        made: torch.Tensor = dequantize_4bit(*part)
        return made.to(dtype)
    return dense(layer, dtype)[0][start:stop]


def _nf4_rows(layer: Any, start: int, stop: int) -> tuple[torch.Tensor, Any] | None:
    """The packed weights of some rows and their QuantState; None where they share constants with others."""
    from copy import copy

    state = layer.weight.quant_state
    if getattr(state, "packing_format_for_cpu", False):
        return None
    width = state.shape[1]
    first, last = start * width, stop * width
    whole = state.blocksize * (state.state2.blocksize if state.nested else 1)
    packed = layer.weight.data
    if first % whole or (last % whole and stop != state.shape[0]) or packed.numel() * 2 != state.shape.numel():
        return None
    part = copy(state)
    part.shape = type(state.shape)((stop - start, width))
    blocks = slice(first // state.blocksize, -(-last // state.blocksize))
    part.absmax = state.absmax[blocks]
    if state.nested:
        part.state2 = copy(state.state2)
        part.state2.absmax = state.state2.absmax[first // whole : -(-last // whole)]
    return packed.reshape(-1, 1)[first // 2 : last // 2], part


def _from_int8(layer: Any, dtype: torch.dtype, rows: slice = slice(None)) -> torch.Tensor:
    """LLM.int8's weight: each row is a row of int8 times its largest magnitude, over 127 (arXiv 2208.07339).

    In `dtype` their product in float32, rounded once; nothing wider than `dtype` is kept.
    """
    weight = layer.weight
    held = weight if weight.SCB is not None else layer.state
    codes = held.CB if held.CB is not None else weight.data
    dense: torch.Tensor = codes[rows].to(dtype)
    return dense.mul_((held.SCB[rows].float() / 127).unsqueeze(1))
