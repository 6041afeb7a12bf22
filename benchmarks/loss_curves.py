"""Loss curves of ftx's ways to compute one run, step by step on the same rows, on one GPU.

    python benchmarks/loss_curves.py [--steps 200] [--out results.json]

The 1.8B shape with random weights and adapters of rank 64 learns drawn conversations, packed into rows of 2048 tokens,
two a step: as transformers and peft compute it, by ftx's own path, and with the frozen weights in fp8. Printed are the
losses along the way, and how far each curve lies from the first: the mean over all steps, and over the last 50.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from pathlib import Path
from typing import Any

import torch
from train_gpu import SHAPES, Row, plan_of, versions, write_model, write_rows

WAYS = {
    "plain: transformers and peft": (("adapters", "plain"), ("attention", "sdpa")),
    "ftx": (),
    "ftx fp8": (("base", "fp8"),),
}


def curve(train: tuple[tuple[str, Any], ...], place: Path, steps: int) -> list[float]:
    from accelerate import Accelerator

    from ftx.train import fit as loop

    accelerator = Accelerator()
    row = Row("curve", "1.8B", "lora", rows=2, train=train, real="best_fit")
    plan = plan_of(row, place, steps)
    model, optimizer, path = loop.prepare(plan, accelerator, None)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    losses = []
    with path.batches(plan, accelerator, 0) as batches:
        for step in range(steps):
            rows = plan.feed.rows_of(step, row.rows, plan.recipe.train.seed)
            losses.append(loop.accumulate(plan, model, rows, batches, accelerator, path))
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            path.forget_gradients(optimizer)
    return torch.stack(losses).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--place", type=Path, default=Path("/tmp/ftx-train-gpu"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ["FTX_CACHE"] = str(given.place / "cache")
    if not (given.place / "1.8B" / "config.json").exists():
        write_model(given.place / "1.8B", SHAPES["1.8B"])
    if not (given.place / "rows.jsonl").exists():
        write_rows(given.place / "rows.jsonl", 2000)
    print(", ".join(f"{key} {value}" for key, value in versions().items()))
    shown = [step for step in (1, 10, 25, 50, 100, 150, 200) if step <= given.steps]
    print("| way | " + " | ".join(f"step {step}" for step in shown) + " | apart | apart, last 50 |")
    print("|---|" + "--:|" * (len(shown) + 2), flush=True)
    curves: dict[str, list[float]] = {}
    for name, train in WAYS.items():
        curves[name] = curve(train, given.place, given.steps)
        gc.collect()
        torch.cuda.empty_cache()
        first = next(iter(curves.values()))
        apart = [abs(ours - theirs) for ours, theirs in zip(curves[name], first, strict=True)]
        means = [sum(part) / len(part) for part in (apart, apart[-50:])]
        cells = [f"{curves[name][step - 1]:.4f}" for step in shown] + [f"{mean:.4f}" for mean in means]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if given.out:
        given.out.write_text(json.dumps({**versions(), "losses": curves}, indent=1) + "\n")


if __name__ == "__main__":
    main()
