"""InternVL2-2B's shape tuned by tutorial 004's recipe (QLoRA r128, batch 4 x 4, max_length 6656) on one GPU.

    python benchmarks/internvl_gpu.py [--steps 3]

Prints images per second, tokens per second and peak memory of ftx, with and without recomputing activations, packed
and not, beside the stock path in the same run: transformers, peft's prepare_model_for_kbit_training and its LoRA, with
checkpointing, padded batches of 4. Weights are random, in the official layout and sizes; pictures are drawn JPEG files
of usual sizes, decoded and tiled as in training. A step is 16 rows, forward, backward, clipping and AdamW, the
pictures' tower included; the first step is not counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from accelerate import Accelerator
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from ftx.plan import Plan, make_plan
from ftx.plugins import load_registry
from ftx.recipe import written
from ftx.train import fit as loop
from ftx.train.path import FastPath

TOKENIZER = Path(__file__).parents[1] / "tests" / "fixtures" / "data" / "internlm2_tokenizer"
ADDED = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
SIZES = ((440, 440), (640, 480), (480, 640), (1080, 1080), (750, 1000), (300, 200), (900, 500), (690, 690))
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 448,
    "patch_size": 14,
    "qkv_bias": True,
    "qk_normalization": False,
    "norm_type": "layer_norm",
}
LANGUAGE = {
    "architectures": ["InternLM2ForCausalLM"],
    "model_type": "internlm2",
    "bias": False,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 92553,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "rms_norm_eps": 1e-5,
}
CONFIG = {
    "architectures": ["InternVLChatModel"],
    "model_type": "internvl_chat",
    "downsample_ratio": 0.5,
    "dynamic_image_size": True,
    "force_image_size": 448,
    "max_dynamic_patch": 12,
    "min_dynamic_patch": 1,
    "ps_version": "v2",
    "select_layer": -1,
    "template": "internlm2-chat",
    "use_thumbnail": True,
}


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every official tensor."""
    width, inner = 1024, 4096
    yield "vision_model.embeddings.class_embedding", (1, 1, width)
    yield "vision_model.embeddings.position_embedding", (1, 1025, width)
    yield "vision_model.embeddings.patch_embedding.weight", (width, 3, 14, 14)
    yield "vision_model.embeddings.patch_embedding.bias", (width,)
    for i in range(VISION["num_hidden_layers"]):  # type: ignore[call-overload]
        layer = f"vision_model.encoder.layers.{i}."
        for name in ("ls1", "ls2", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            yield layer + name, (width,)
        sizes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (inner, width)}
        for name, shape in {**sizes, "mlp.fc2": (width, inner)}.items():
            yield f"{layer}{name}.weight", shape
            yield f"{layer}{name}.bias", shape[:1]
    for i, shape in {0: (4096,), 1: (2048, 4096), 3: (2048, 2048)}.items():
        yield f"mlp1.{i}.weight", shape
        yield f"mlp1.{i}.bias", shape[:1]
    for name in ("model.tok_embeddings", "output"):
        yield f"language_model.{name}.weight", (92553, 2048)
    yield "language_model.model.norm.weight", (2048,)
    for i in range(24):
        layer = f"language_model.model.layers.{i}."
        sizes = {"attention.wqkv": (4096, 2048), "attention.wo": (2048, 2048), "feed_forward.w2": (2048, 8192)}
        for name, shape in {**sizes, "feed_forward.w1": (8192, 2048), "feed_forward.w3": (8192, 2048)}.items():
            yield f"{layer}{name}.weight", shape
        for name in ("attention_norm", "ffn_norm"):
            yield f"{layer}{name}.weight", (2048,)


def write_model(folder: Path, device: str) -> None:
    """The folder of a 2B model with random weights."""
    folder.mkdir(parents=True)
    generator = torch.Generator(device).manual_seed(0)
    tensors = {}
    for name, shape in shapes():
        norm = name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "mlp1.0.weight"))
        made = torch.randn(shape, generator=generator, device=device) * 0.02 + norm
        tensors[name] = made.to(torch.bfloat16).cpu()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**CONFIG, "vision_config": VISION, "llm_config": LANGUAGE}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [92542, 2]}))
    shutil.copyfile(TOKENIZER / "tokenizer.model", folder / "tokenizer.model")
    config = json.loads((TOKENIZER / "tokenizer_config.json").read_text())
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config["added_tokens_decoder"] |= {str(92544 + i): {"content": token, **plain} for i, token in enumerate(ADDED)}
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_rows(folder: Path, count: int) -> Path:
    """Rows as the tutorial's, one drawn picture each."""
    folder.mkdir(parents=True)
    draw = random.Random(0)
    rows = []
    for i in range(count):
        size = SIZES[i % len(SIZES)]
        picture = Image.effect_noise((size[0] // 8, size[1] // 8), 80).resize(size).convert("RGB")
        ImageDraw.Draw(picture).ellipse((20, 20, size[0] // 2, size[1] // 2), fill=(draw.randrange(256), 90, 40))
        picture.save(folder / f"{i}.jpg", quality=90)
        said = "『住手！现在的你还不是那家伙的对手！先撤吧！！" * draw.randint(1, 2)
        turns = [("human", "<image>\n请你根据这张图片，讲一个脑洞大开的梗"), ("gpt", said)]
        rows.append({"image": f"{i}.jpg", "conversations": [{"from": who, "value": text} for who, text in turns]})
    (folder / "rows.json").write_text(json.dumps(rows, ensure_ascii=False))
    return folder / "rows.json"


def plan_of(model: Path, rows: Path, steps: int, *, memory: str, packing: str) -> Plan:
    values: dict[str, Any] = {
        "family": {"name": "internvl"},
        "model": str(model),
        "data": {"sets": [{"path": str(rows)}], "packing": packing, "max_length": 6656},
        "train": {"max_steps": steps, "memory": memory},
    }
    if packing == "best_fit":  # as many pictures a step, in fewer and fuller rows
        values["train"] |= {"global_batch_size": 8, "micro_batch_size": 2}
    return make_plan(written(None, {key: (value, "benchmark") for key, value in values.items()}), load_registry("none"))


def stock(plan: Plan) -> tuple[Any, torch.optim.Optimizer, FastPath]:
    """The same base in 4 bits with peft as its documentation has it."""
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    )
    model: Any = plan.family.load(
        plan.base, dtype=torch.bfloat16, device="cuda", attention="sdpa", quantization=quantization
    )
    model.config.get_text_config().use_cache = False
    model = peft.prepare_model_for_kbit_training(
        model, use_gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    leaves = "|".join(plan.family.lora_targets(model))
    config = peft.LoraConfig(
        r=128,
        lora_alpha=256,
        lora_dropout=0.05,
        target_modules=rf"model\.language_model\..*\.({leaves})",
        modules_to_save=["multi_modal_projector"],
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(model, config)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-5, weight_decay=0.05)
    return model, optimizer, FastPath(torch.bfloat16)


def measure(name: str, plan: Plan, steps: int, accelerator: Accelerator, *, by_stock: bool) -> str:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    model, optimizer, path = stock(plan) if by_stock else loop.prepare(plan, accelerator, None)
    loading, loaded = torch.cuda.max_memory_allocated(), time.monotonic() - began
    model.train()
    torch.cuda.reset_peak_memory_stats()
    train = plan.recipe.train
    images = tokens = 0
    with path.batches(plan, accelerator, 0) as batches:
        for step in range(steps + 1):
            rows = plan.feed.rows_of(step, train.global_batch_size, train.seed)
            loss = loop.accumulate(plan, model, rows, batches, accelerator, path)
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
            optimizer.step()
            optimizer.zero_grad()
            value = float(loss)
            if not step:
                began = time.monotonic()
                continue
            images += sum(len(sample.pictures) for row in rows for sample in plan.feed.samples(row))
            tokens += sum(plan.feed.tokens(row) for row in rows)
    seconds = time.monotonic() - began
    peak = torch.cuda.max_memory_allocated()
    return (
        f"| {name} | {images / seconds:.2f} | {tokens / seconds:,.0f} | {peak / 2**30:.1f} | {loading / 2**30:.1f} "
        f"| {loaded:.0f} | {value:.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args()
    accelerator = Accelerator()
    with tempfile.TemporaryDirectory() as place:
        os.environ["FTX_CACHE"] = f"{place}/cache"
        model, rows = Path(place, "model"), write_rows(Path(place, "data"), 16 * (given.steps + 1))
        write_model(model, "cuda")
        print(
            f"{torch.cuda.get_device_name()}, torch {torch.__version__}, transformers {transformers.__version__}, ",
            end="",
        )
        print(f"peft {peft.__version__}, Python {platform.python_version()}; {given.steps} steps of 16 pictures")
        print("| path | images/s | tokens/s | peak GiB | peak GiB loading | s loading | loss |")
        print("|---|--:|--:|--:|--:|--:|--:|", flush=True)
        for name, memory, packing, by_stock in (
            ("stock: peft, padded, checkpointing", "fast", "none", True),
            ("ftx: the default recipe (memory balanced)", "balanced", "none", False),
            ("ftx: packed, balanced", "balanced", "best_fit", False),
            ("ftx: memory fast", "fast", "none", False),
        ):
            plan = plan_of(model, rows, given.steps + 1, memory=memory, packing=packing)
            print(measure(name, plan, given.steps, accelerator, by_stock=by_stock), flush=True)


if __name__ == "__main__":
    main()
