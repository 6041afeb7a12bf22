"""What a model needs to answer, against what the hubs lend to apps: too little of it fails without a word there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ftx.artifact import Artifact

# GB of memory that the model may take, smallest first: of the GPU where there is one. Read in the hubs' own pages on
# the days named; a hub may lend other things today.
TIERS: Mapping[str, tuple[tuple[str, float], ...]] = {
    "huggingface": (  # 2026-08-22
        ("cpu-basic", 16),
        ("t4-small", 16),
        ("l4x1", 24),
        ("a10g-small", 24),
        ("zero-a10g", 48),
        ("l40sx1", 48),
        ("a100-large", 80),
    ),
    "modelscope": (  # 2026-08-22
        ("platform/2v-cpu-16g-mem", 16),
        ("xgpu/8v-cpu-32g-mem-16g", 16),
        ("xgpu/8v-cpu-64g-mem-48g", 48),
    ),
    "openxlab": (  # 2024-06-17
        ("2vCPU 8GB", 8),
        ("4vCPU 16GB vGPU 8GB", 8),
        ("4vCPU 16GB", 16),
        ("4vCPU 16GB vGPU 16GB", 16),
        ("12vCPU 48GB A10 24GB", 24),
        ("12vCPU 48GB A100 40GB", 40),
    ),
}
AROUND = 1.5  # GB for Python, torch and a conversation, beside the weights
BITS = {"float32": 32, "float16": 16, "bfloat16": 16}


@dataclass(frozen=True)
class Need:
    """GB by the bits of a weight, and the smallest tier that holds the model with each; None where none does."""

    gb: Mapping[int, float]
    tier: Mapping[int, str | None]

    @property
    def sentence(self) -> str:
        """For people."""
        none = "more than this hub lends"
        said = [f"{gb:.1f} GB in {bits} bit ({self.tier[bits] or none})" for bits, gb in self.gb.items()]
        return f"an app of it needs some {', '.join(said)}"


def need_of(artifact: Artifact, hub: str) -> Need | None:
    """Estimated from the number of parameters; None for a hub that runs no apps."""
    if hub not in TIERS:
        return None
    parameters = int(artifact.plan["model"]["parameters"])
    stored = BITS.get(str(artifact.plan["model"]["dtype"]), 16)
    gb = {bits: round(parameters * bits / 8 / 1e9 + AROUND, 1) for bits in sorted({stored, 16, 4}, reverse=True)}
    return Need(gb, {bits: _smallest(hub, size) for bits, size in gb.items()})


def _smallest(hub: str, gb: float) -> str | None:
    return next((name for name, size in TIERS[hub] if size >= gb), None)
