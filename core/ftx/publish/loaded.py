"""A process of its own that loads a model as an app does on a processor, answers once, and tells what it held.

`python -m ftx.publish.loaded FOLDER BASE OPTIONS`: BASE is "" but for an adapter, OPTIONS the family's as JSON. Whoever
started it watches its memory; what it prints is one JSON object of what can be seen from within alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 256  # of the prompt that is answered


def main(folder: Path, base: Path | None, options: dict[str, Any]) -> None:
    """Load in 16 bit, as an app on a hub's small machine, read a prompt and write two tokens."""
    import torch

    from ftx.adapters import attached
    from ftx.plan import find_family
    from ftx.plugins import load_registry

    family = find_family(options, base or folder, load_registry())
    model = family.load(base or folder, dtype=torch.bfloat16, device="cpu", attention="sdpa")
    if base:
        model = attached(model, folder).eval()
    print(json.dumps({**weights(model), **answered(model), "settled": resident()}))


def weights(model: PreTrainedModel) -> dict[str, int]:
    """Numbers of the model, and those in the layers that quantisation packs."""
    from torch import nn

    head = model.get_output_embeddings()
    packed = [one for one in model.modules() if isinstance(one, nn.Linear) and one is not head]
    numbers = {id(one): one.numel() for one in model.parameters()}
    return {"numbers": sum(numbers.values()), "packed": sum(one.weight.numel() for one in packed)}


def resident() -> int:
    """Bytes that this process holds now."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def answered(model: PreTrainedModel) -> dict[str, int]:
    """Bytes of keys and values a token, after a prompt and two tokens; the model's longest conversation."""
    import torch

    config = model.config.get_text_config()
    longest = int(getattr(config, "max_position_embeddings", 0) or 2048)
    ids = torch.ones((1, min(TOKENS, longest - 2)), dtype=torch.long)
    past: Any = None
    with torch.inference_mode():
        for _ in range(3):
            out = model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
            past, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
    held = sum(t.numel() * t.element_size() for layer in past.layers for t in (layer.keys, layer.values))
    return {"kv_per_token": held // int(past.get_seq_length()), "longest": longest}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None, json.loads(sys.argv[3]))
