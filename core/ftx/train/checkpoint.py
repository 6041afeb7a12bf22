"""Checkpoints: the weights in their own format, and beside them all that a bit-exact resume needs.

A folder step-N holds weights/ (peft or official layout, training precision), optimizer.safetensors and state.json.
The order of rows, the rates and the random numbers of a step are functions of the step (ftx.train.schedule), so the
step's number is all that need be kept of them. No pickle.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.atomic import whole_folder, write_text
from ftx.errors import RecipeError, StorageError
from ftx.run import Run, checkpoints_in
from ftx.train.memory import chosen

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


# What may change when a run goes on, as it changes no result or shows in the number of steps.
FREE = {
    "epochs",
    "max_steps",
    "micro_batch_size",
    "device",
    "attention",
    "adapters",
    "memory",
    "save_every",
    "keep_checkpoints",
    "stall_seconds",
}


# What checkpoints held before they said so.
BEFORE = {"products": "auto", "moments": 32}
BEFORE_OF_METHOD = {"bits": 4, "quantize_head": False}


def save(run: Run, step: int, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Path:
    """Write the checkpoint of `step` whole, then drop the oldest beyond the number kept.

    Raises StorageError; checkpoints that were whole stay so.
    """
    from safetensors.torch import save_file

    plan = run.plan
    target = run.checkpoint(step)
    with whole_folder(target) as folder:
        (folder / "weights").mkdir()
        plan.method.save(model, plan.family, plan.base, folder / "weights", final=False)
        save_file(_optimizer_tensors(model, optimizer), folder / "optimizer.safetensors")
        write_text(folder / "state.json", json.dumps({"step": step, "identity": identity(run)}))
    for old in run.checkpoints()[: -plan.recipe.train.keep_checkpoints]:
        try:
            shutil.rmtree(old)
        except OSError as error:
            raise StorageError(f"{old} could not be removed: {error.strerror}; {target} is whole") from None
    return target


def identity(run: Run) -> dict[str, Any]:
    """What must be the same when a run goes on: another base, data or schedule would be another run."""
    plan = run.plan
    train = plan.recipe.train
    return {
        "base": plan.family.fingerprint(plan.base),
        "family": {"name": plan.family.name, **plan.family.model_dump(mode="json")},
        "data": plan.hashes,
        "samples": plan.prepared.digests,
        "mix": [one.model_dump(include={"limit", "repeat", "weight"}) for one in plan.recipe.data.sets],
        "packing": plan.recipe.data.packing,
        "group_by_length": plan.recipe.data.group_by_length,
        "max_length": plan.recipe.data.max_length,
        "method": {"name": plan.method.name, **plan.method.model_dump(mode="json")},
        "template": plan.template.name,
        "moments": 8 if train.memory != "auto" and chosen(plan, None).mode == "small" else 32,
        "products": train.base,
        **train.model_dump(mode="json", exclude=FREE | {"base"}),
        "steps": plan.steps,
        "lr": plan.lr,
    }


def find(resume: str, out: Path) -> Path:
    """The checkpoint that `--resume` names: a path, a run's folder, or "auto" for the newest in `out`.

    Raises RecipeError when there is none, or it is another run's: a run goes on in its own folder.
    """
    if resume == "auto" or (Path(resume) / "checkpoints").is_dir():
        folder = out if resume == "auto" else Path(resume)
        kept = checkpoints_in(folder)
        if not kept:
            raise RecipeError(f"--resume: {folder} holds no checkpoint; leave --resume out to begin anew")
        found = kept[-1]
    else:
        found = Path(resume)
    if not (found / "state.json").is_file():
        raise RecipeError(f"--resume: {found} is no checkpoint (a folder step-N of a run, or 'auto'){_instead(found)}")
    if found.resolve().parents[1] != out.resolve():
        raise RecipeError(f"--resume: {found} is not of the run in {out}; give --out {found.parents[1]}")
    return found


def _instead(damaged: Path) -> str:
    older = [kept for kept in checkpoints_in(damaged.parent.parent) if kept < damaged]
    return f"; take --resume {older[-1]}, the one before it" if older else ""


@contextmanager
def read_whole(folder: Path | None) -> Iterator[None]:
    """Tell of a file in the checkpoint that is damaged as RecipeError."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if folder is None:
            raise
        raise RecipeError(f"--resume: {folder} is damaged ({error}){_instead(folder)}") from None


def read_step(folder: Path, run: Run) -> int:
    """Steps done at the checkpoint. Raises RecipeError when it belongs to another plan, naming what differs."""
    step, told = _state(folder)
    now, then = json.loads(json.dumps(identity(run))), {**BEFORE, **told}
    then["method"] = {key: BEFORE_OF_METHOD[key] for key in now["method"] if key in BEFORE_OF_METHOD} | then["method"]
    differing = [key for key in now if now[key] != then.get(key)]
    if differing:
        raise RecipeError(
            *(f"--resume: {key} was {then.get(key)} in {folder}, but the plan says {now[key]}" for key in differing)
        )
    return step


def _state(folder: Path) -> tuple[int, dict[str, Any]]:
    """What state.json says: the step, and whose it is."""
    try:
        state = json.loads((folder / "state.json").read_text("utf-8"))
        return int(state["step"]), {"method": {}, **state["identity"]}
    except (ValueError, KeyError, TypeError):
        raise RecipeError(f"--resume: {folder / 'state.json'} is damaged{_instead(folder)}") from None


def restore(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    """Put the optimizer state back as it was."""
    from safetensors.torch import load_file

    stored = load_file(folder / "optimizer.safetensors")
    names = {id(p): name for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = names[id(parameter)] + "|"
            found = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
            optimizer.state[parameter] = {k: _held(v, k, parameter) for k, v in found.items()}


def _held(value: torch.Tensor, key: str, parameter: torch.Tensor) -> torch.Tensor | int:
    """As the optimizer keeps it: the step count of torch's AdamW as a tensor, that of the 8-bit one as a number."""
    if key == "step" and value.dtype.is_floating_point:
        return value.to(parameter.device) if parameter.is_cuda else value
    return int(value) if key == "step" else value.to(parameter.device)


def _optimizer_tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    import torch

    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(parameter)]}|{key}": torch.as_tensor(value).contiguous().clone()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
