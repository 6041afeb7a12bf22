"""Training speed and memory on one GPU: ftx beside its peers, in InternLM2's shapes with random weights.

    python benchmarks/train_gpu.py [--rows PATTERN ...] [--steps 5] [--peers FOLDER] [--out results.json] [--list]

The lists in benchmarks/peers name the peers' versions; benchmarks/peers/pack packs them for a machine without a
network.

Each row runs in a process of its own, one after the other: peers change transformers for the whole process. A step is
forward, backward, clipping and AdamW; the mean of --steps of them after four that do not count. Rows "ftx train" are
whole runs, with all that is read and reported of each step, and without more memory than they say. Tokens are those
that a label asks for or that lead to one: padding is none. "%" is of the bf16 product of 8192 x 8192 x 8192 measured in
the same run. Model flops per token are 4N for adapters and 6N for full tuning, N without the input embedding, and
6 L h s for attention to s tokens. Peaks are torch's own count of allocated memory, while loading and after.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import gc
import json
import os
import platform
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peers.training import STEPPERS, TRAINERS, Setting, write_tokenizer

TOKENIZER = Path(__file__).parents[1] / "tests" / "fixtures" / "data" / "internlm2_tokenizer"
WORDS = 92544
WARM = 4
WARM_REAL = 30  # rows of real lengths come in several shapes, each of which is met before it is recorded
LIBRARIES = ["torch", "transformers", "accelerate", "peft", "bitsandbytes", "liger-kernel"]
TOOLS = ["unsloth", "trl", "llamafactory", "ms-swift"]
PEERS_SUFFIX = "-for-peers"  # the same weights, with a tokenizer that needs no remote code


@dataclass(frozen=True)
class Shape:
    width: int
    layers: int
    heads: int
    kv_heads: int
    inner: int

    def matrices(self) -> Iterator[tuple[str, int, int]]:
        """Leaf, out and in of a layer's matrices."""
        kv = self.width // self.heads * self.kv_heads
        for leaf, out in (("q", self.width), ("k", kv), ("v", kv), ("o", self.width)):
            yield f"self_attn.{leaf}_proj", out, self.width
        for leaf in ("gate", "up"):
            yield f"mlp.{leaf}_proj", self.inner, self.width
        yield "mlp.down_proj", self.width, self.inner

    def flops(self, method: str, seen: float) -> float:
        """Of a token that attends in a sample of `seen` tokens."""
        weights = self.layers * sum(out * into for _, out, into in self.matrices()) + WORDS * self.width
        return (6 if method == "full" else 4) * weights + 6 * self.layers * self.width * seen


SHAPES = {"1.8B": Shape(2048, 24, 16, 8, 8192), "7B": Shape(4096, 32, 32, 8, 14336)}


@dataclass(frozen=True)
class Row:
    """One line of the table. `by` is "ftx", "ftx train" or a peer; `train` holds recipe values of ftx's."""

    name: str
    model: str
    method: str
    rows: int = 4
    tokens: int = 2048
    rank: int = 64
    by: str = "ftx"
    checkpointing: bool = False
    train: tuple[tuple[str, Any], ...] = ()
    real: str | None = None  # a packing: rows of real lengths instead of full ones
    quantize_head: bool = False
    room: float | None = None  # GiB of the GPU's memory that may be taken, as if it had no more


def ftx(name: str, model: str, method: str, **given: Any) -> Row:
    train = {key: given.pop(key) for key in ("memory", "adapters", "attention", "base") if key in given}
    return Row(f"ftx {name}".strip(), model, method, train=tuple(train.items()), **given)


ROWS = [
    ftx("", "1.8B", "lora"),
    Row("unsloth", "1.8B", "lora", by="unsloth"),
    ftx("balanced", "1.8B", "lora", memory="balanced"),
    Row("unsloth, its checkpointing", "1.8B", "lora", by="unsloth", checkpointing=True),
    ftx("fp8", "1.8B", "lora", base="fp8"),
    ftx("", "1.8B", "qlora"),
    ftx("", "1.8B", "full"),
    ftx("", "7B", "lora"),
    ftx("fp8", "7B", "lora", base="fp8"),
    Row("unsloth", "7B", "lora", by="unsloth"),
    ftx("small", "7B", "qlora", rows=1, memory="small"),
    ftx("small, head in 4 bits", "7B", "qlora", rows=1, memory="small", quantize_head=True),
    Row("unsloth, its checkpointing", "7B", "qlora", rows=1, by="unsloth", checkpointing=True),
    ftx("r16", "7B", "lora", rows=2, tokens=4096, rank=16),
    ftx("packed", "1.8B", "lora", tokens=8192, rows=1, real="best_fit"),
    ftx("train, in 18 GiB", "1.8B", "lora", by="ftx train", tokens=8192, rows=1, real="best_fit", room=18),
    ftx("train, small, in 7.4 GiB", "7B", "qlora", by="ftx train", rows=1, real="best_fit", memory="small", room=7.4),
    ftx("padded", "1.8B", "lora", rows=16, real="none", attention="sdpa"),
    ftx("end to end", "1.8B", "lora", rows=16, real="none"),
    Row("peft", "1.8B", "lora", by="peft_autocast", checkpointing=True),
    Row("peft + liger, bf16 adapters", "1.8B", "lora", by="peft_liger"),
    Row("trl + liger, packing", "1.8B", "lora", by="trl"),
    Row("llamafactory + liger", "1.8B", "lora", by="llamafactory_liger"),
    Row("llamafactory, its defaults", "1.8B", "lora", by="llamafactory", checkpointing=True),
    Row("swift + liger, bf16 adapters", "1.8B", "lora", by="swift_liger"),
    Row("swift, its defaults", "1.8B", "lora", by="swift", checkpointing=True),
    ftx("packed", "1.8B", "lora", tokens=4096, rows=2, real="best_fit"),
    Row("unsloth", "1.8B", "qlora", by="unsloth"),
    ftx("", "7B", "qlora"),
]


def label(row: Row) -> str:
    return f"{row.name}|{row.model}|{row.method}|{row.rows}x{row.tokens}"


def write_model(folder: Path, shape: Shape) -> None:
    """A Llama of this shape: InternLM2's under the names that every peer reads."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    generator = torch.Generator("cuda").manual_seed(0)

    def drawn(*size: int) -> torch.Tensor:
        return (torch.randn(size, generator=generator, device="cuda") * 0.02).bfloat16().cpu()

    ones = torch.ones(shape.width, dtype=torch.bfloat16)
    whole = {"model.embed_tokens.weight": drawn(WORDS, shape.width), "lm_head.weight": drawn(WORDS, shape.width)}
    shards = [{**whole, "model.norm.weight": ones}]
    for i in range(shape.layers):
        layer = {f"model.layers.{i}.{leaf}.weight": drawn(out, into) for leaf, out, into in shape.matrices()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            layer[f"model.layers.{i}.{norm}.weight"] = ones.clone()
        if i % 8:
            shards[-1].update(layer)
        else:
            shards.append(layer)
    names = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        names |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": WORDS,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [92542, 2]}))
    peers = folder.with_name(folder.name + PEERS_SUFFIX)
    peers.mkdir()
    for file in folder.iterdir():
        (peers / file.name).symlink_to(file)
    write_tokenizer(TOKENIZER, peers)
    for file in TOKENIZER.iterdir():
        shutil.copyfile(file, folder / file.name)


def write_rows(file: Path, count: int) -> Path:
    """Conversations of the lengths that people have: a mean of some 330 tokens, few of 2,000."""
    draw = random.Random(0)
    said = "窗前明月光疑是地上霜举头望明月低头思故乡"
    with file.open("w", encoding="utf-8") as out:
        for _ in range(count):
            length = min(1950, max(16, int(draw.lognormvariate(5.4, 0.85))))
            text = "".join(draw.choice(said) for _ in range(length))
            turns = [
                {"role": "user", "content": text[: length // 4]},
                {"role": "assistant", "content": text[length // 4 :]},
            ]
            out.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
    return file


def plan_of(row: Row, place: Path, steps: int) -> Any:
    from ftx.plan import make_plan
    from ftx.plugins import load_registry
    from ftx.recipe import written

    method: dict[str, Any] = {"name": row.method}
    if row.method != "full":
        method |= {"rank": row.rank, "alpha": 2.0 * row.rank}
    if row.quantize_head:
        method["quantize_head"] = True
    train = {**dict(row.train), "max_steps": steps, "global_batch_size": row.rows, "micro_batch_size": row.rows}
    values: dict[str, Any] = {
        "model": str(place / row.model),
        "method": method,
        "data": {
            "sets": [{"path": str(place / "rows.jsonl")}],
            "max_length": row.tokens,
            "packing": row.real or "best_fit",  # full rows, drawn below, are as long as packed ones
        },
        "train": {**train, "lr": 2e-4},
        "out": str(place / "run"),
    }
    return make_plan(written(None, {key: (value, "benchmark") for key, value in values.items()}), load_registry("none"))


def full_batch(ids: torch.Tensor, *, end_to_end: bool) -> dict[str, Any]:
    """Rows whose every token is asked for, as ftx's own collate and batches give them."""
    from ftx.train.loss import asked

    count, length = ids.shape
    places = torch.arange(length).expand(count, length)
    labels = ids.clone()
    labels[:, 0] = -100
    batch = {"input_ids": ids, "position_ids": places, **asked(labels)}
    if end_to_end:
        batch |= {
            "input_ids": ids.reshape(1, -1),
            "position_ids": places.reshape(1, -1),
            **asked(labels.reshape(1, -1)),
        }
        batch |= {"cu_seq_lens_q": torch.arange(0, ids.numel() + 1, length, dtype=torch.int32), "max_length_q": length}
    return batch


def run_ftx(row: Row, place: Path, steps: int, profile: bool) -> dict[str, float | None]:
    from accelerate import Accelerator

    from ftx.data.collate import pinned
    from ftx.train import fit as loop

    accelerator = Accelerator()
    warm = WARM_REAL if row.real else WARM
    plan = plan_of(row, place, steps + warm)
    model, optimizer, path = loop.prepare(plan, accelerator, None)
    print(path, file=sys.stderr)
    loading = torch.cuda.max_memory_allocated()
    model.train()
    torch.cuda.reset_peak_memory_stats()
    trained = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(0)
    batches = path.batches(plan, accelerator, 0)
    seen = [0, 0]
    share = torch.tensor(1 / (row.rows * (row.tokens - 1)), dtype=torch.float64)

    def step(number: int) -> torch.Tensor:
        if row.real:
            rows = plan.feed.rows_of(number, row.rows, plan.recipe.train.seed)
            loss: torch.Tensor = loop.accumulate(plan, model, rows, batches, accelerator, path)
            lengths = [len(sample) for i in rows for sample in plan.feed.samples(i)]
        else:
            ids = torch.randint(0, WORDS, (row.rows, row.tokens), generator=generator)
            batch = full_batch(ids, end_to_end=path.end_to_end)
            loss = path.gradients(model, pinned({**batch, "share": share}), accelerator)
            lengths = [row.tokens] * row.rows
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        path.forget_gradients(optimizer)
        seen[0] += sum(lengths)
        seen[1] += sum(length**2 for length in lengths)
        return loss.detach()

    return {**timed(step, steps, seen, profile, warm), "load_peak": loading, "expected": path.memory.gib}


def run_whole(row: Row, place: Path, steps: int, _: bool) -> dict[str, float]:
    """A run as `ftx train` makes it, with all that it reads, checks and reports of each step, timed by its events.

    Five times the steps, as events tell milliseconds. On a GPU a step's event comes once the next is queued, but at the
    end: so one step more is made than is timed. Its peak is that of loading, too.
    """
    from ftx.run import events
    from ftx.train.fit import fit

    last = WARM_REAL + 5 * steps
    plan = plan_of(replace(row, train=(*row.train, ("save_every", last + 1))), place, last + 1)
    shutil.rmtree(plan.out, ignore_errors=True)
    fit(plan)
    ended = {event["step"]: event for event in events(plan.out) if event["event"] == "step"}
    rows = [plan.feed.rows_of(step, row.rows, plan.recipe.train.seed) for step in range(WARM_REAL, last)]
    lengths = [len(sample) for of_step in rows for i in of_step for sample in plan.feed.samples(i)]
    return {
        "seconds": ended[last]["time"] - ended[WARM_REAL]["time"],
        "tokens": sum(lengths),
        "squares": sum(length**2 for length in lengths),
        "loss": ended[last]["loss"],
        "peak": torch.cuda.max_memory_allocated(),
    }


def timed(
    step: Callable[[int], torch.Tensor], steps: int, seen: list[int], profile: bool, warm: int = WARM
) -> dict[str, float]:
    """Seconds, tokens, squares of lengths, peak and loss of `steps` steps."""
    for number in range(warm):
        loss = step(number)
    torch.cuda.synchronize()
    seen[:] = [0, 0]
    began = time.perf_counter()
    for number in range(warm, warm + steps):
        loss = step(number)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    found = {"seconds": seconds, "tokens": seen[0], "squares": seen[1], "loss": float(loss)}
    found["peak"] = torch.cuda.max_memory_allocated()
    if profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as watched:
            step(warm + steps - 1)
            torch.cuda.synchronize()
        print(watched.key_averages().table(sort_by="cuda_time_total", row_limit=28, max_name_column_width=70))
    return found


def run_peer(row: Row, place: Path, steps: int, profile: bool) -> dict[str, float]:
    setting = Setting(
        str(place / (row.model + PEERS_SUFFIX)), row.method, row.rank, row.rows, row.tokens, row.checkpointing
    )
    generator = torch.Generator().manual_seed(0)
    if row.by in TRAINERS:
        ids = torch.randint(0, WORDS, (row.rows * (WARM + steps), row.tokens), generator=generator).tolist()
        own = TRAINERS[row.by](setting)(ids, WARM, steps)
        found = {**vars(own), "squares": own.tokens * row.tokens}
        return {**found, "peak": torch.cuda.max_memory_allocated()}
    made = STEPPERS[row.by](setting)
    loading = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    seen = [0, 0]

    def step(_: int) -> torch.Tensor:
        seen[0] += row.rows * row.tokens
        seen[1] += row.rows * row.tokens**2
        found: torch.Tensor = made(torch.randint(0, WORDS, (row.rows, row.tokens), generator=generator).cuda())
        return found

    return {**timed(step, steps, seen, profile), "load_peak": loading}


def ceiling() -> float:
    """Flops a second of the bf16 product."""
    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        x @ y
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20):
        x @ y
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - began)


def one(name: str, place: Path, steps: int, profile: bool) -> None:
    row = next(row for row in ROWS if label(row) == name)
    if row.room:
        torch.cuda.set_per_process_memory_fraction(row.room * 2**30 / torch.cuda.get_device_properties().total_memory)
    ways: dict[str, Callable[..., Any]] = {"ftx": run_ftx, "ftx train": run_whole}
    found = ways.get(row.by, run_peer)(row, place, steps, profile)
    print("RESULT " + json.dumps(found))


def measured(row: Row, given: argparse.Namespace, limit: float) -> dict[str, Any] | None:
    command = [sys.executable, __file__, "--one", label(row), "--place", str(given.place), "--steps", str(given.steps)]
    path = [str(given.peers), os.environ.get("PYTHONPATH", "")] if given.peers and not row.by.startswith("ftx") else []
    environment = {**os.environ, **({"PYTHONPATH": os.pathsep.join(path)} if path else {})}
    command += ["--profile"] * given.profile
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if given.profile:
        print(done.stdout)
    if not lines:
        print(f"{label(row)} did not run: " + done.stderr[-1500:], file=sys.stderr)
        return None
    found = json.loads(lines[0].removeprefix("RESULT "))
    speed = found["tokens"] / found["seconds"]
    flops = SHAPES[row.model].flops(row.method, found["squares"] / found["tokens"])
    return {
        "name": row.name,
        "model": row.model,
        "method": row.method,
        "sequence": f"{row.rows}x{row.tokens}" + (f" {row.real}, real lengths" if row.real else ""),
        "tokens_per_s": round(speed),
        "percent_of_ceiling": round(100 * speed * flops / limit, 1),
        "peak_gib": round(found["peak"] / 2**30, 2),
        "load_peak_gib": round(found["load_peak"] / 2**30, 2) if "load_peak" in found else None,
        "expected_gib": round(found["expected"], 2) if found.get("expected") else None,
        "loss": round(found["loss"], 4),
    }


def cell(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"gpu": torch.cuda.get_device_name(), "python": platform.python_version()}
    for package in LIBRARIES + TOOLS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of this file's repository, None outside of one or without git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=["*"], help="patterns of name|model|method|rows x tokens")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--place", type=Path, default=Path("/tmp/ftx-train-gpu"), help="models are written here once")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, help="begin no further row after so long")
    parser.add_argument("--stop", action="store_true", help="end with the first row that does not run")
    parser.add_argument("--peers", type=Path, help="a folder of packages that peers alone are to find")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    if given.peers:
        sys.path.append(str(given.peers))  # for their versions
    os.environ["FTX_CACHE"] = str(given.place / "cache")
    if given.one:
        one(given.one, given.place, given.steps, given.profile)
        return
    rows = [row for row in ROWS if any(fnmatch.fnmatch(label(row), pattern) for pattern in given.rows)]
    if given.list:
        print("\n".join(map(label, rows)))
        return
    limit = ceiling()
    for name in {row.model for row in rows}:
        if not (given.place / name / "config.json").exists():
            write_model(given.place / name, SHAPES[name])
    if not (given.place / "rows.jsonl").exists():
        write_rows(given.place / "rows.jsonl", 2000)
    gc.collect()
    torch.cuda.empty_cache()
    print(", ".join(f"{key} {value}" for key, value in versions().items()) + f"; ceiling {limit / 1e12:.0f} TFLOP/s")
    print("| path | model | method | rows | tokens/s | % | peak GiB | loading | as `ftx plan` has it | loss |")
    print("|---|---|---|---|--:|--:|--:|--:|--:|--:|", flush=True)
    results: list[dict[str, Any]] = []
    command = shlex.join(["python", "benchmarks/train_gpu.py", *sys.argv[1:]])
    about = {**versions(), "command": command, "steps": given.steps, "rows": results}
    origin = {"ceiling_tflops": round(limit / 1e12, 1), "commit": commit()}
    began = time.monotonic()
    for row in rows:
        if given.seconds and time.monotonic() - began > given.seconds:
            break
        if found := measured(row, given, limit):
            results.append({**found, **origin, "date": datetime.date.today().isoformat()})
            if given.out:  # after each row, so that a run that is cut short leaves what it found
                given.out.write_text(json.dumps(about, indent=1) + "\n")
            print(
                "| " + " | ".join(map(cell, found.values())) + " |",
                flush=True,
            )
        elif given.stop:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
