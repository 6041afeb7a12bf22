"""Builds the embedded base from nothing: corpus, tokenizer, random weights, then `ftx train --method full`.

    python -m ftx_quickstart.build_base --out DIR            (a GPU: some five minutes)

writes DIR/start (the untrained model), DIR/corpus.jsonl, DIR/run (the training run) and DIR/base (what is
embedded in the package as ftx_quickstart/base). Interrupted, it goes on from its last checkpoint when run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from ftx.artifact import COMPANIONS
from ftx.console import Console
from ftx.plan import make_plan
from ftx.plugins import load_registry
from ftx.recipe import Written
from ftx.run import checkpoints_in
from ftx.train.fit import fit
from ftx_quickstart import corpus
from ftx_quickstart.tokenizer import build_tokenizer

CONFIG: dict[str, Any] = {
    "architectures": ["InternLM2ForCausalLM"],
    "attn_implementation": "eager",
    "bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 192,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": 2048,
    "model_type": "internlm2",
    "num_attention_heads": 6,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 3584,
}


def write_start(out: Path, seed: int) -> None:
    """An untrained model in the official layout, with its tokenizer."""
    import torch

    from ftx_internlm2.modeling import InternLM2Config, InternLM2ForCausalLM

    build_tokenizer(corpus.tokenizer_texts(), out, CONFIG["vocab_size"])
    torch.manual_seed(seed)
    model = InternLM2ForCausalLM(InternLM2Config(**CONFIG)).to(torch.bfloat16)
    model.save_pretrained(str(out))
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", "utf-8")
    stop = {"bos_token_id": 1, "eos_token_id": [2, CONFIG["vocab_size"] - 2], "pad_token_id": 2}
    (out / "generation_config.json").write_text(json.dumps(stop, indent=2) + "\n", "utf-8")


def build(out: Path, rows: int, steps: int, batch: int, seed: int) -> Path:
    """Build everything into `out` and return the finished base's folder."""
    start, data = out / "start", out / "corpus.jsonl"
    start.mkdir(parents=True, exist_ok=True)
    write_start(start, seed)
    corpus.write_rows(corpus.rows(rows, seed), data)
    written = Written()
    written.put_all(
        {
            "family": "internlm2",
            "model": str(start),
            "method": "full",
            "data": {"sets": [{"path": str(data)}], "max_length": 256},
            "out": str(out / "run"),
            "train": {
                "max_steps": steps,
                "lr": 2e-3,
                "weight_decay": 0.01,
                "betas": [0.9, 0.98],
                "global_batch_size": batch,
                "micro_batch_size": batch,
                "keep_checkpoints": 1,
                "seed": seed,
            },
        },
        "build_base",
    )
    resume = "auto" if checkpoints_in(out / "run") else None
    artifact = fit(make_plan(written, load_registry("none")), Console(), resume)
    base = out / "base"
    base.mkdir(exist_ok=True)
    for name in (*COMPANIONS, "model.safetensors"):
        if (artifact.folder / name).is_file():
            shutil.copyfile(artifact.folder / name, base / name)
    return base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(build(given.out, given.rows, given.steps, given.batch, given.seed))


if __name__ == "__main__":
    main()
