"""The dense form of a linear layer's weight, whatever it is stored as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftx.fast.kernels import triton_runs

if TYPE_CHECKING:
    import torch


def stored_as(layer: torch.nn.Module) -> str | None:
    """How a linear layer holds its weight: "dense", "nf4" or "int8"; None for a layer that is none of these."""
    import torch

    kind = type(layer).__name__
    if kind == "Linear4bit":
        return "nf4"
    if kind == "Linear8bitLt":
        return "int8"
    return "dense" if type(layer) is torch.nn.Linear else None


def dense(layer: Any, dtype: torch.dtype) -> tuple[torch.Tensor, bool]:
    """The weight, [out, in] of `dtype`, and whether it was made for this call and may be written into."""
    kind = stored_as(layer)
    weight = layer.weight
    if kind == "nf4":
        if weight.is_cuda and triton_runs():
            from ftx.fast import nf4_triton

            if nf4_triton.fits(weight.quant_state):
                return nf4_triton.dense(weight.data, weight.quant_state, dtype), True
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state).to(dtype), True
    if kind == "int8":
        return _from_int8(layer, dtype), True
    return weight.to(dtype), weight.dtype != dtype


def _from_int8(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """LLM.int8's weight: each row is a row of int8 times its largest magnitude, over 127 (arXiv 2208.07339).

    In `dtype` their product in float32, rounded once; nothing wider than `dtype` is kept.
    """
    state, weight = layer.state, layer.weight
    codes = weight.CB if weight.CB is not None else state.CB
    scales = weight.SCB if weight.SCB is not None else state.SCB
    rows: torch.Tensor = (weight.data if codes is None else codes).to(dtype)
    return rows.mul_((scales.float() / 127).unsqueeze(1))
