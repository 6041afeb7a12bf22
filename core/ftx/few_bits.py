"""Models held in 4 or 8 bits by bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ftx.contracts import ModelFamily
from ftx.errors import ModelError, RecipeError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BLOCK = 64  # weights that share a constant in 4 bits
HEAD = "lm_head"
TIED = "method.quantize_head: the head is the embedding in this model; leave it out"


def quantization(
    bits: int, dtype: torch.dtype, family: ModelFamily, *, nested: bool = True, with_head: bool = False
) -> Any:
    """What `ModelFamily.load` takes for `bits` 4 (nf4, arXiv 2305.14314) or 8 (LLM.int8, arXiv 2208.07339).

    Products in 4 bits are computed in `dtype`, and with `nested` their constants are quantised too. Only the language
    model is large enough for it to pay; what else there is sees better unrounded. Its head is quantised `with_head`
    alone, and then its embedding too, in 8 bits. Raises RecipeError without bitsandbytes.
    """
    if find_spec("bitsandbytes") is None:
        raise RecipeError(f"--bits {bits}: needs bitsandbytes; install it with: pip install 'ftx[qlora]'")
    from transformers import BitsAndBytesConfig

    kept = [prefix for part, prefix in family.parts.items() if part != "language"]
    skipped = kept if with_head else [*kept, HEAD] if kept else None
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        llm_int8_skip_modules=skipped,
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=nested,
        bnb_4bit_compute_dtype=dtype,
    )


def with_head(quantization: Any) -> bool:
    """Whether a quantization is one of the head and the embedding too."""
    skipped = getattr(quantization, "llm_int8_skip_modules", None)
    return skipped is not None and HEAD not in skipped


def hold_embedding(model: PreTrainedModel) -> None:
    """Hold the embedding in 8 bits, each word's vector by its own largest magnitude.

    One that does more than look words up, as one that scales them, stays as it is. Raises RecipeError where the head
    is tied to it, though a file may hold a copy.
    """
    import torch
    from bitsandbytes.nn import Embedding8bit, Int8Params

    if getattr(model.config, "tie_word_embeddings", False):
        raise RecipeError(TIED)
    plain = model.get_input_embeddings()
    if type(plain) is not torch.nn.Embedding:
        return
    device, dtype = plain.weight.device, plain.weight.dtype
    with torch.device("meta"):
        held = Embedding8bit(plain.num_embeddings, plain.embedding_dim, dtype=dtype)
    held.weight = Int8Params(plain.weight.data.cpu(), has_fp16_weights=False, requires_grad=False)
    # bitsandbytes refuses to save it, and with it a whole model's state; here adapters are all that is saved.
    vars(held)["_save_to_state_dict"] = partial(torch.nn.Module._save_to_state_dict, held)
    model.set_input_embeddings(held.to(device).train(plain.training))


def of_bitsandbytes(module: torch.nn.Module) -> bool:
    """Whether a layer lays 4-bit weights out anew, and for good, when it is used on a CPU out of training mode."""
    return type(module).__module__.startswith("bitsandbytes.")


@contextmanager
def as_in_training(model: PreTrainedModel) -> Iterator[None]:
    """Have bitsandbytes' layers compute as in training, and so leave their weights as they are."""
    modes = [(module, module.training) for module in model.modules() if of_bitsandbytes(module)]
    for module, _ in modes:
        module.training = True
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def refuse_narrow(model: PreTrainedModel) -> None:
    """Raises ModelError for a model in 4 bits on a CPU with layers that bitsandbytes 0.50 fails to repack there."""
    for name, module in model.named_modules():
        if type(module).__name__ == "Linear4bit" and module.in_features % BLOCK:
            raise ModelError(
                f"--bits 4: {name} is {module.in_features} wide, and on a CPU bitsandbytes asks for multiples of "
                f"{BLOCK}; use --bits 8, or leave it out"
            )
