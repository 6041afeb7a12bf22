"""The training loop."""

from __future__ import annotations

import os
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ftx.artifact import Artifact, seal, write_template
from ftx.atomic import whole_folder
from ftx.console import Console
from ftx.errors import Interrupted, OutOfMemory, lacks_memory
from ftx.plan import Plan
from ftx.run import Run, taken
from ftx.train import checkpoint
from ftx.train.apart import keep_apart
from ftx.train.ask import Asker
from ftx.train.batches import Batches
from ftx.train.memory import chosen
from ftx.train.optimizer import make_optimizer
from ftx.train.path import FastPath, speed_up
from ftx.train.peers import joined, stalled
from ftx.train.progress import Progress
from ftx.train.schedule import rate, step_seed
from ftx.train.signals import stop_on_signals
from ftx.train.witness import write_witness

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from transformers import PreTrainedModel

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # how torch takes a GPU's memory


def fit(plan: Plan, console: Console | None = None, resume: str | None = None) -> Artifact:
    """Train as planned and return the sealed artefact.

    `resume` is a checkpoint, a run folder or "auto". Under torchrun every process calls this with the same plan;
    the main one writes. Raises Interrupted after a signal, with a checkpoint saved; TrainingError when a loss or
    gradient is not finite; Stalled when another process is gone; OutOfMemory; StorageError.
    """
    console = console or Console(quiet=True)
    try:
        return _fit(plan, console, resume)
    except (MemoryError, RuntimeError) as error:
        if lacks_memory(error):
            raise OutOfMemory(_memory_advice(plan, error)) from None
        if gone := stalled(error, plan):
            raise gone from error
        raise
    finally:
        console.close()


def _fit(plan: Plan, console: Console, resume: str | None) -> Artifact:
    accelerator = joined(plan)
    if resume:
        checkpoint.find(resume, plan.out)  # or it is refused before a folder is made
    with taken(plan.out) if accelerator.is_main_process else nullcontext():
        return _steps(plan, console, resume, accelerator)


def _steps(plan: Plan, console: Console, resume: str | None, accelerator: Accelerator) -> Artifact:
    from ftx.seeds import seed_device

    start = time.monotonic()
    train = plan.recipe.train
    from_checkpoint = checkpoint.find(resume, plan.out) if resume else None
    run = Run.open(plan, console, fresh=from_checkpoint is None, main=accelerator.is_main_process)
    done = checkpoint.read_step(from_checkpoint, run) if from_checkpoint else 0
    with checkpoint.read_whole(from_checkpoint):
        model, optimizer, path = prepare(plan, accelerator, from_checkpoint)
        if from_checkpoint:
            checkpoint.restore(from_checkpoint, accelerator.unwrap_model(model), optimizer)
    asker = Asker(run, model, path, accelerator)
    if from_checkpoint:
        run.event("resumed", step=done, checkpoint=str(from_checkpoint))
    _announce(run, model, accelerator, path)
    model.train()
    if not done:
        asker.ask(0)
    progress = Progress(run, accelerator, done)
    with (
        stop_on_signals() as stop,
        closing(path),
        path.batches(plan, accelerator, done) as batches,
    ):
        for step in range(done, plan.steps):
            rows = plan.feed.rows_of(step, train.global_batch_size, train.seed)
            lr = plan.lr * rate(step, plan.steps, plan.warmup_steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            seed_device(step_seed(train.seed, step, accelerator.process_index), accelerator.device)
            share = accumulate(plan, model, rows, batches, accelerator, path)
            norm = accelerator.clip_grad_norm_(_trained(model), train.max_grad_norm)
            tokens = sum(plan.feed.tokens(i) for i in rows)
            progress.take(step + 1, share, norm, lr, tokens, stop=stop.asked)
            optimizer.step()
            path.forget_gradients(optimizer)
            last, saves = step + 1 == plan.steps, (step + 1) % plan.save_every == 0
            progress.report(all_steps=last or saves or asker.due(step + 1))
            progress.leave_out(asker.ask(step + 1))
            stopping = progress.stopping or (stop.asked and accelerator.num_processes == 1)
            if stopping:
                progress.report(all_steps=True)
            if run.main and not last and (saves or stopping):
                checkpoint.save(run, step + 1, accelerator.unwrap_model(model), optimizer)
            if stopping and not last:
                raise Interrupted(f"stopped after step {step + 1} of {plan.steps}; go on with --resume auto")
    if run.main:
        write_witness(run, accelerator.unwrap_model(model), path, accelerator)
        _finish(run, accelerator.unwrap_model(model), start)
    accelerator.wait_for_everyone()
    return Artifact.open(run.folder / plan.method.produces)


def prepare(
    plan: Plan, accelerator: Accelerator, from_checkpoint: Path | None
) -> tuple[PreTrainedModel, torch.optim.Optimizer, FastPath]:
    """The model to train, its optimizer, and the ways that were chosen to compute it."""
    from accelerate.utils import set_seed

    train = plan.recipe.train
    dtype = arithmetic(train.dtype, accelerator.device.type)
    set_seed(train.seed)
    memory = chosen(plan, _free(accelerator.device))
    weights = from_checkpoint / "weights" if from_checkpoint else None
    source = weights if weights and plan.method.produces == "model" else plan.base
    model = plan.family.load(
        source,
        dtype=plan.method.storage_dtype(dtype),
        device=str(accelerator.device),
        attention="sdpa" if train.attention == "auto" else train.attention,
        quantization=plan.method.quantization(dtype, plan.family),
    )
    # A cache would hold every key, and keep transformers from telling packed samples apart.
    for config in (model.config, model.config.get_text_config()):
        config.use_cache = False
    end_to_end = keep_apart(model, plan, dtype)
    model = plan.method.prepare(model, plan.family, weights)
    alone = accelerator.num_processes == 1
    path = speed_up(model, plan, memory, dtype, end_to_end=end_to_end, alone=alone)
    optimizer = make_optimizer(_trained(model), plan, memory)
    if accelerator.num_processes > 1:
        model = accelerator.prepare_model(model)
    return model, optimizer, path


def _free(device: torch.device) -> int | None:
    """Bytes that a GPU has free."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def arithmetic(name: str, device_type: str) -> torch.dtype:
    """The dtype products are computed in; "auto" is bfloat16 on a GPU and float32 on a CPU."""
    import torch

    if name == "auto":
        name = "float32" if device_type == "cpu" else "bfloat16"
    found: torch.dtype = getattr(torch, name)
    return found


def _trained(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def accumulate(
    plan: Plan, model: PreTrainedModel, rows: list[int], batches: Batches, accelerator: Accelerator, path: FastPath
) -> torch.Tensor:
    """Gradients of the mean loss over every labelled token of the step, and this process's share of that loss.

    The divisor is the whole step's token count, known to every process beforehand, so that neither the size of
    micro-batches nor the number of processes changes the result. Gradient averaging over processes is undone.
    """
    import torch

    tokens = sum(plan.feed.labelled(i) for i in rows)
    share = torch.full((), accelerator.num_processes / tokens, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    for made, counts in batches.of_step(rows):
        total += path.gradients(model, {**made, "share": share if counts else share * 0}, accelerator)
    total /= accelerator.num_processes
    return total


def _announce(run: Run, model: PreTrainedModel, accelerator: Accelerator, path: FastPath) -> None:
    run.event(
        "started",
        steps=run.plan.steps,
        trainable=sum(p.numel() for p in _trained(model)),
        parameters=run.plan.facts.parameters,
        device=str(accelerator.device),
        processes=accelerator.num_processes,
        **path.as_dict(),
        rows=run.plan.ledger.as_dict(),
    )
    if run.main:
        run.plan.registry.pm.hook.ftx_run_started(run=run)


def _finish(run: Run, model: PreTrainedModel, start: float) -> None:
    """Write and seal the artefact."""
    from ftx.run import losses

    plan = run.plan
    curve = list(losses(run.folder).values())
    target = run.folder / plan.method.produces
    with whole_folder(target) as folder:
        plan.method.save(model, plan.family, plan.base, folder, final=True)
        write_template(folder, plan.template.jinja(), plan.stop_ids)
        seal(
            folder,
            plan.method.produces,
            plan=plan.as_dict(),
            base={"path": str(plan.base.resolve()), "fingerprint": plan.family.fingerprint(plan.base)},
            data=plan.hashes,
            rows=plan.ledger.as_dict(),
            metrics={"first_loss": curve[0], "last_loss": curve[-1], "steps": plan.steps},
        )
    artifact = Artifact.open(target)
    run.event("finished", artifact=str(target), kind=artifact.kind, seconds=round(time.monotonic() - start, 2))
    plan.registry.pm.hook.ftx_run_finished(run=run, artifact=artifact)


def _memory_advice(plan: Plan, error: Exception) -> str:
    import torch

    micro = plan.micro_batch_size
    less = {"auto": "balanced", "fast": "balanced", "balanced": "small"}.get(str(plan.recipe.train.memory))
    smaller = [f"--set train.memory={less}"] if less else []
    smaller += [f"train.micro_batch_size below {micro}"] if micro > 1 else []
    smaller += [f"data.max_length below {plan.recipe.data.max_length}"]
    if plan.method.name != "qlora":
        smaller += ["--method qlora"]
    elif getattr(plan.method, "bits", 4) > 4:
        smaller += ["--set method.bits=4"]
    if isinstance(error, torch.OutOfMemoryError) and not any(name in os.environ for name in ALLOCATOR):
        smaller += [f"{ALLOCATOR[0]}=expandable_segments:True in the environment"]
    return f"the device has not enough memory; try {', or '.join(smaller)}"
