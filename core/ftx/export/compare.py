"""Does the merged model compute what base and adapter did?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftx.adapters import attached
from ftx.contracts import ModelFamily

if TYPE_CHECKING:
    import torch

# Share of the largest logit that rounding the merged weights to the base's dtype may move a logit by.
# float32: accumulated rounding. 16 bit: 2^-9 and 2^-11 per weight, grown over the layers; a wrong merge
# moves logits by their whole scale.
TOLERANCE = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.1}
PROBES = (
    "Hello! Who are you? Please tell me about the weather, the capital of France and 7 + 5.",
    "你好，请介绍一下你自己。今天天气怎么样？",
)


@dataclass(frozen=True)
class Agreement:
    """Largest absolute difference of two models' logits over the probes, and the largest logit."""

    difference: float
    scale: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        return self.difference <= self.tolerance * self.scale


def compare_merged(family: ModelFamily, base: Path, adapter: Path, merged: Path) -> Agreement:
    """Logits of base + adapter against the merged folder, both in float32 on the CPU, one after the other."""
    unmerged = _logits(family, base, adapter)
    after = _logits(family, merged, None)
    dtypes = {info.dtype for info in family.checkpoint(base).tensors.values()}
    return Agreement(
        difference=max(float((a - b).abs().max()) for a, b in zip(unmerged, after, strict=True)),
        scale=max(float(a.abs().max()) for a in unmerged),
        tolerance=max(TOLERANCE.get(dtype, 0.1) for dtype in dtypes),
    )


def _logits(family: ModelFamily, folder: Path, adapter: Path | None) -> list[torch.Tensor]:
    import torch

    model = family.load(folder, dtype=torch.float32, device="cpu", attention="sdpa")
    if adapter is not None:
        model = attached(model, adapter).eval()
    with torch.inference_mode():
        return [model(**probe).logits for probe in _probes(family, folder)]


def _probes(family: ModelFamily, folder: Path) -> Iterator[dict[str, torch.Tensor]]:
    """Inputs that reach every part of the model: text, and for a model that sees a picture before it."""
    import torch
    from PIL import Image

    tokenizer, images = family.tokenizer(folder), family.image_processor(folder)
    texts = [tokenizer.encode_text(probe) for probe in PROBES]
    yield from ({"input_ids": torch.tensor([ids])} for ids in texts)
    if images is not None:
        picture = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
        (places,) = images.lay_out([picture.size])
        yield {"input_ids": torch.tensor([[*places, *texts[0]]]), "pixel_values": images.pixels([[picture]])}
