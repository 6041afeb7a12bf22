"""Training speed on two CPU cores: ftx beside transformers' Trainer with peft, and TRL's SFTTrainer with packing.

    python benchmarks/train_cpu.py [--steps 40] [--rounds 1] [--rows PATTERN ...] [--peers FOLDER]

benchmarks/peers/cpu.txt names the peers' packages for FOLDER, and how to install them there.

Three models: the quickstart's embedded base, and a larger and a tiny one with random weights and the same vocabulary.
ftx reads them in InternLM2's layout, the peers as a plain Llama of the same weights. The rows are those that the
quickstart trains on, a new name and ordinary facts, half each, rendered and tokenised once, by ftx's plan: every path
takes the same ids and labels in the same order, packed rows too, at the same learning rates, so that equal losses prove
equal work. LoRA rank 8 on all linear layers, float32, 16 conversations a step, or one packed row of 512 tokens, which
holds about as much; of the tiny model one conversation a step, and ten times the steps, as each takes milliseconds.

Each line runs in a process of its own, one after the other. Seconds are those from the end of step 3 to the end of the
last step: start-up, loading and the first steps do not count, and nothing is saved on the way. The fastest round
counts; the median of all tells what else the machine did. Tokens that count are those of samples: padding is none. Loss
is the last step's. Peak is the most memory that the process ever held.

TRL 1.15.0 has its loss in Triton alone and fails on a CPU; 1.16.0 trains there.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import itertools
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftx.plan import Plan

# Nothing heavy at module level: the starting process stays small, since a process's peak begins with its parent's.

CORES = 2
WARM = 3
SEED = 42
RANK = 8
RATE = 2e-3
BATCH = 16  # conversations a step, computed at once, as the quickstart has it
LENGTH = 512
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# What differs from the quickstart's own config; its base is taken with its weights, the others are drawn.
MODELS: dict[str, dict[str, int]] = {
    "quickstart, 6 x 192": {},
    "random, 6 x 256": {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
}
SINGLE = "random, 2 x 64"  # one conversation a step
MODELS[SINGLE] = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
SKIPPED, RESULT = "SKIPPED ", "RESULT "


@dataclass(frozen=True)
class Row:
    """One way of training; `by` is "ftx" or a peer, `adapters` and `attention` as in ftx's recipe."""

    name: str
    by: str
    packing: str = "none"
    adapters: str = "auto"
    attention: str = "auto"

    def batch(self, model: str) -> int:
        """Rows a step."""
        return 1 if self.packing == "best_fit" or model == SINGLE else BATCH


def steps_of(model: str, steps: int) -> int:
    return 10 * steps if model == SINGLE else steps


ROWS = [
    Row("ftx", "ftx"),
    Row("ftx, adapters split", "ftx", adapters="split"),
    Row("ftx, adapters plain", "ftx", adapters="plain"),
    Row("ftx, adapters and attention plain", "ftx", adapters="plain", attention="sdpa"),
    Row("Trainer + peft", "trainer"),
    Row("ftx, packed", "ftx", "best_fit"),
    Row("TRL, packed", "trl", "best_fit"),
]


@dataclass(frozen=True)
class Place:
    """Where the folders and files of one benchmark stand."""

    root: Path

    def model(self, name: str) -> Path:
        """The model in InternLM2's layout."""
        return self.root / "models" / name

    def llama(self, name: str) -> Path:
        """The same weights as a plain Llama."""
        return self.root / "llamas" / name

    def conversations(self) -> Path:
        return self.root / "rows.jsonl"

    def training(self, packing: str, model: str) -> Path:
        """What the peers are to train the model on, in order."""
        return self.root / f"training-{packing}-{model}.json"


def prepare(place: Place, steps: int) -> None:
    """Write the models, the conversations, and what the plan makes of them."""
    from ftx_quickstart.corpus import write_rows
    from ftx_quickstart.identity import identity_rows, replay_rows

    for name, changes in MODELS.items():
        write_model(place.model(name), changes)
        write_llama(place.model(name), place.llama(name))
    half = BATCH * steps // 2
    write_rows([*identity_rows("小明", half), *replay_rows(half, seed=0)], place.conversations())
    for packing, model in itertools.product(("none", "best_fit"), MODELS):
        plan = plan_of(Row("", "ftx", packing), model, place, steps_of(model, steps))
        place.training(packing, model).write_text(json.dumps(training_of(plan)))


def write_model(folder: Path, changes: dict[str, int]) -> None:
    """The quickstart's base, or where there are `changes` to its config a random model of its kind."""
    import torch

    from ftx_internlm2.modeling import InternLM2Config, InternLM2ForCausalLM
    from ftx_quickstart.build_base import CONFIG
    from ftx_quickstart.first_run import BASE

    shutil.copytree(BASE, folder)
    if changes:
        config = {**CONFIG, **changes}
        torch.manual_seed(0)
        InternLM2ForCausalLM(InternLM2Config(**config)).to(torch.bfloat16).save_pretrained(str(folder))
        (folder / "config.json").write_text(json.dumps(config))


def write_llama(source: Path, folder: Path) -> None:
    """The model of `source` as transformers' own Llama, with a tokenizer that needs no remote code."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ftx_internlm2.family import InternLM2

    family = InternLM2()
    native = family.load(source, dtype=torch.bfloat16, device="cpu", attention="sdpa")
    values = {**native.config.to_dict(), "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    llama = LlamaForCausalLM(LlamaConfig.from_dict(values)).to(torch.bfloat16)
    llama.load_state_dict(native.state_dict())
    llama.save_pretrained(str(folder))
    family.tokenizer(source).hf.save_pretrained(str(folder))


def plan_of(row: Row, model: str, place: Place, steps: int) -> Plan:
    from ftx.plan import make_plan
    from ftx.plugins import load_registry
    from ftx.recipe import written

    batch = row.batch(model)
    values: dict[str, Any] = {
        "family": "internlm2",
        "model": str(place.model(model)),
        "method": {"name": "lora", "rank": RANK, "alpha": 2.0 * RANK},
        "data": {"sets": [{"path": str(place.conversations())}], "max_length": LENGTH, "packing": row.packing},
        "train": {
            "max_steps": steps,
            "global_batch_size": batch,
            "micro_batch_size": batch,
            "lr": RATE,
            "seed": SEED,
            "adapters": row.adapters,
            "attention": row.attention,
            "device": "cpu",
            "dtype": "float32",
            "save_every": steps,
        },
        "out": tempfile.mkdtemp(dir=place.root),
    }
    return make_plan(written(None, {key: (value, "benchmark") for key, value in values.items()}), load_registry("none"))


def training_of(plan: Plan) -> dict[str, Any]:
    """The plan's rows in the order of its steps, the tokens of each step, and each step's share of the rate.

    `seq_lengths` are those of a packed row's samples, by the name that TRL's collator has for them.
    """
    from ftx.train.schedule import rate

    train = plan.recipe.train
    steps = [plan.feed.rows_of(step, train.global_batch_size, train.seed) for step in range(plan.steps)]
    if any(len(rows) != train.global_batch_size for rows in steps):
        raise RuntimeError("a step of ftx's is short of rows, which the peers would fill from the next")
    rows = []
    for number in (number for step in steps for number in step):
        samples = plan.feed.samples(number)
        rows.append(
            {
                "input_ids": [int(token) for sample in samples for token in sample.ids],
                "labels": [int(label) for sample in samples for label in sample.labels],
                "seq_lengths": [len(sample) for sample in samples],
            }
        )
    return {
        "rows": rows,
        "tokens": [sum(map(plan.feed.tokens, numbers)) for numbers in steps],
        "rates": [plan.lr * rate(step, plan.steps, plan.warmup_steps) for step in range(plan.steps)],
        "pad": plan.tokenizer.pad_id,
    }


def run_ftx(row: Row, model: str, place: Place, steps: int) -> dict[str, float]:
    """The whole of ftx's loop, timed by the events that it records at the end of each step."""
    from ftx.run import events, losses
    from ftx.train.fit import fit

    plan = plan_of(row, model, place, steps)
    fit(plan)
    ended = {event["step"]: event["time"] for event in events(plan.out) if event["event"] == "step"}
    return {"seconds": ended[steps] - ended[WARM], "loss": losses(plan.out)[steps]}


def run_trainer(row: Row, model: str, place: Place, steps: int) -> dict[str, float]:
    """transformers' Trainer over peft's model, with the collator that pads ids and labels to a batch's longest."""
    import torch
    from peft import get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    training = json.loads(place.training(row.packing, model).read_text())
    watch = make_watch(training["rates"])
    set_seed(SEED)  # as ftx does it before the adapters are drawn
    base = AutoModelForCausalLM.from_pretrained(str(place.llama(model)), dtype=torch.float32)
    trainer = Trainer(
        model=get_peft_model(base, lora()),
        args=TrainingArguments(**arguments(row, model, place, steps)),
        train_dataset=[{name: one[name] for name in ("input_ids", "labels")} for one in training["rows"]],
        data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(str(place.llama(model)))),
        callbacks=[watch],
    )
    trainer.train()
    return {"seconds": watch.ended[-1] - watch.ended[WARM - 1], "loss": watch.losses[-1]}


def run_trl(row: Row, model: str, place: Place, steps: int) -> dict[str, float]:
    """TRL's SFTTrainer with packing, over rows that ftx has packed: its own packing would put others together.

    Its collator lays a row's samples end to end with positions that begin anew, from which transformers makes a mask
    of blocks for sdpa; TRL warns that it would rather have FlashAttention, which CPUs have not.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    training = json.loads(place.training(row.packing, model).read_text())
    watch = make_watch(training["rates"])
    trainer = SFTTrainer(
        model=str(place.llama(model)),
        args=SFTConfig(
            **arguments(row, model, place, steps),
            model_init_kwargs={"dtype": torch.float32, "attn_implementation": "sdpa", "device_map": {"": "cpu"}},
            max_length=LENGTH,
            packing=True,
            dataset_kwargs={"skip_prepare_dataset": True},
            bf16=False,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(training["rows"]),
        processing_class=AutoTokenizer.from_pretrained(str(place.llama(model))),
        peft_config=lora(),
        callbacks=[watch],
    )
    trainer.train()
    return {"seconds": watch.ended[-1] - watch.ended[WARM - 1], "loss": watch.losses[-1]}


RUNS = {"ftx": run_ftx, "trainer": run_trainer, "trl": run_trl}


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=LINEARS, task_type="CAUSAL_LM")


def arguments(row: Row, model: str, place: Place, steps: int) -> dict[str, Any]:
    """What both trainers are told; the rest is as they have it. Each step is logged, as ftx records each."""
    return {
        "output_dir": str(place.root / "peers"),
        "use_cpu": True,
        "per_device_train_batch_size": row.batch(model),
        "max_steps": steps,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": SEED,
    }


def make_watch(rates: list[float]) -> Any:
    """A callback that sets each step's rate, and keeps when each step ended and its loss."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.ended: list[float] = []
            self.losses: list[float] = []

        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            for group in given["optimizer"].param_groups:
                group["lr"] = rates[state.global_step]

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.ended.append(time.perf_counter())

        def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if "loss" in given["logs"]:
                self.losses.append(float(given["logs"]["loss"]))

    return Watch()


def one(name: str, model: str, place: Place, steps: int) -> None:
    """Run one line in this process and print what was found."""
    import torch

    torch.set_num_threads(CORES)
    row = next(row for row in ROWS if row.name == name)
    if missing := missing_for(row):
        print(f"{SKIPPED}{missing}; --peers names a folder of packages")
        return
    found = RUNS[row.by](row, model, place, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    print(RESULT + json.dumps({**found, "peak": peak}))


def missing_for(row: Row) -> str:
    """What keeps the packages of a way, beyond those that ftx needs itself, from being imported; "" is nothing."""
    if row.by != "trl":
        return ""
    try:
        importlib.import_module("trl.trainer.sft_trainer")  # `import trl` alone loads none of what that needs
    except ImportError as error:
        return str(error).splitlines()[0]
    return ""


def measured(row: Row, model: str, given: argparse.Namespace) -> dict[str, float] | str:
    """What a line found in a process of its own, or why it found nothing."""
    steps = steps_of(model, given.steps)
    done = call(given, ["--one", row.name, "--model", model, "--steps", str(steps)], peers=row.by != "ftx")
    for line in done.stdout.splitlines():
        if line.startswith(SKIPPED):
            return f"is left out: {line.removeprefix(SKIPPED)}"
        if line.startswith(RESULT):
            found: dict[str, float] = json.loads(line.removeprefix(RESULT))
            return found
    print(done.stderr[-3000:], file=sys.stderr)
    return f"did not run: {(done.stderr.strip().splitlines() or ['it says nothing'])[-1]}"


def line_of(row: Row, model: str, tries: list[dict[str, float] | str], tokens: int) -> str:
    """The table's line: the fastest try, as whatever else a machine does only ever slows one down."""
    found = [one for one in tries if not isinstance(one, str)]
    if not found:
        return f"{row.name} {tries[0]}"
    best = min(found, key=lambda one: one["seconds"])
    usual = statistics.median(one["seconds"] for one in found)
    speeds = f"{tokens / best['seconds']:,.0f} | {tokens / usual:,.0f}"
    return f"| {row.name} | {model} | {speeds} | {best['loss']:.4f} | {best['peak'] / 2**20:,.0f} |"


def call(given: argparse.Namespace, what: list[str], *, peers: bool) -> subprocess.CompletedProcess[str]:
    """This file in a process of its own, in which only `peers` find the packages of --peers."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(CORES),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "FTX_CACHE": str(given.place / "cache"),
    }
    if given.peers and peers:
        path = [str(given.peers.resolve()), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    command = [sys.executable, __file__, "--place", str(given.place), "--steps", str(given.steps), *what]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def versions(packages: Iterable[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def table(given: argparse.Namespace) -> None:
    if given.peers:
        sys.path.append(str(given.peers))  # for their versions
    made = call(given, ["--prepare"], peers=False)
    if made.returncode:
        raise SystemExit(made.stderr[-1500:])
    about = versions(("ftx", "torch", "transformers", "peft", "accelerate", "trl"))
    print(f"{platform.machine()}, {CORES} threads on {len(os.sched_getaffinity(0))} cores, ", end="")
    print(
        ", ".join(f"{key} {value}" for key, value in about.items()) + f"; {given.steps} steps, {WARM} not counted, ",
        end="",
    )
    print("one round" if given.rounds == 1 else f"the fastest of {given.rounds} rounds")
    print("| path | model | tokens/s | median | last loss | peak MiB |")
    print("|---|---|--:|--:|--:|--:|", flush=True)
    for model in MODELS:
        # Round by round, so that a busy minute does not fall upon all tries of one line.
        rows = [row for row in ROWS if any(fnmatch.fnmatch(f"{row.name}|{model}", one) for one in given.rows)]
        rounds = [[measured(row, model, given) for row in rows] for _ in range(given.rounds)]
        for row, *tries in zip(rows, *rounds, strict=True):
            listed = Place(given.place).training(row.packing, model).read_text()
            tokens = sum(json.loads(listed)["tokens"][WARM:])
            print(line_of(row, model, tries, tokens), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=1, help="times that each line runs; the fastest counts")
    parser.add_argument("--rows", nargs="*", default=["*"], help="patterns of path|model")
    parser.add_argument("--peers", type=Path, help="a folder of packages, such as trl, that peers alone are to find")
    for hidden in ("--one", "--model"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.steps <= WARM or given.rounds < 1:
        parser.error(f"--steps must be above {WARM}, as those do not count, and --rounds at least 1")
    if given.prepare:
        prepare(Place(given.place), given.steps)
    elif given.one:
        one(given.one, given.model, Place(given.place), given.steps)
    else:
        with tempfile.TemporaryDirectory() as folder:
            given.place = Path(folder)
            table(given)


if __name__ == "__main__":
    main()
