"""Models held in 4 or 8 bits by bitsandbytes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ftx.contracts import ModelFamily
from ftx.errors import ModelError, RecipeError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BLOCK = 64  # weights that share a constant in 4 bits


def quantization(bits: int, dtype: torch.dtype, family: ModelFamily, *, nested: bool = True) -> Any:
    """What `ModelFamily.load` takes for `bits` 4 (nf4, arXiv 2305.14314) or 8 (LLM.int8, arXiv 2208.07339).

    Products in 4 bits are computed in `dtype`, and with `nested` their constants are quantised too. Only the language
    model is large enough for it to pay, without its head; what else there is sees better unrounded. Raises RecipeError
    without bitsandbytes.
    """
    if find_spec("bitsandbytes") is None:
        raise RecipeError(f"--bits {bits}: needs bitsandbytes; install it with: pip install 'ftx[qlora]'")
    from transformers import BitsAndBytesConfig

    kept = [prefix for part, prefix in family.parts.items() if part != "language"]
    skipped = [*kept, "lm_head"] if kept else None
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        llm_int8_skip_modules=skipped,
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=nested,
        bnb_4bit_compute_dtype=dtype,
    )


def refuse_narrow(model: PreTrainedModel) -> None:
    """Raises ModelError for a model in 4 bits on a CPU with layers that bitsandbytes 0.50 fails to repack there."""
    for name, module in model.named_modules():
        if type(module).__name__ == "Linear4bit" and module.in_features % BLOCK:
            raise ModelError(
                f"--bits 4: {name} is {module.in_features} wide, and on a CPU bitsandbytes asks for multiples of "
                f"{BLOCK}; use --bits 8, or leave it out"
            )
