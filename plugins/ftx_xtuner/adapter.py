"""Adapters in peft's files: on the official names as XTuner's pth_to_hf writes them, or on ftx's native ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ftx import Layout, ModelError
from ftx_xtuner.trained import Factors, Trained

if TYPE_CHECKING:
    import torch


def adapter_tensors(trained: Trained, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """peft's names and the factors, in `dtype` or as they are. XTuner's pth_to_hf takes float16 for the language model.

    Raises ModelError when more than LoRA was trained, which an adapter cannot hold.
    """
    if trained.whole:
        raise ModelError(
            f"{sorted(trained.whole)[0]} was trained as a whole, which an adapter does not hold; use `ftx xtuner merge`"
        )
    tensors: dict[str, torch.Tensor] = {}
    for name, (a, b, _) in trained.factors.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        tensors |= {
            f"{prefix}.lora_A.weight": a.to(dtype or a.dtype),
            f"{prefix}.lora_B.weight": b.to(dtype or b.dtype),
        }
    return tensors


def on_native_names(trained: Trained, layout: Layout) -> Trained:
    """The same adapter on the native parameters: parts of a fused weight share A, and each has its rows of B."""
    factors = {}
    for stored, (a, b, scale) in trained.factors.items():
        for native, rows in layout.split(stored, b).items():
            factors[native] = Factors(a, rows, scale)
    return Trained(factors, trained.whole)


def write_adapter(trained: Trained, base: Path, out: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors into `out`, in the precision of training.

    Raises ModelError when more than LoRA was trained, OSError.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous().clone() for name, tensor in adapter_tensors(trained).items()}
    kinds = {name.removesuffix(".weight"): (f.a.shape[0], f.scale) for name, f in trained.factors.items()}
    (rank, scale), _ = Counter(kinds.values()).most_common(1)[0]
    others = {module: kind for module, kind in kinds.items() if kind != (rank, scale)}
    config = LoraConfig(
        r=rank,
        lora_alpha=scale * rank,
        rank_pattern={module: r for module, (r, _) in others.items()},
        alpha_pattern={module: s * r for module, (r, s) in others.items()},
        target_modules=sorted({module.rpartition(".")[2] for module in kinds}),
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base.resolve()),
        inference_mode=True,
    )
    config.save_pretrained(str(out))
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
