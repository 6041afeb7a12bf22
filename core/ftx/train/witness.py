"""What the trainer's own model says to the first probes, for `ftx verify` to hold the written files against."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.atomic import hash_text, write_bytes
from ftx.errors import VerificationError
from ftx.run import WITNESS
from ftx.train.ask import as_in_chat

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from ftx.artifact import Artifact
    from ftx.export.forms import Recorded
    from ftx.run import Run
    from ftx.train.path import FastPath


def _of_plan(plan: Mapping[str, Any]) -> str:
    """What tells one run from another."""
    return hash_text(json.dumps(plan, sort_keys=True, ensure_ascii=False))


def read_witness(artifact: Artifact) -> Recorded | None:
    """What was written into the folder of the artefact's run; None where there is nothing, or another run's.

    Raises VerificationError.
    """
    from safetensors import SafetensorError, safe_open

    from ftx.export.forms import Recorded, Said

    path = artifact.folder.parent / WITNESS
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if file.metadata()["plan"] != _of_plan(artifact.plan):
                return None
            said = {
                key: Said(
                    prompt=file.get_tensor(f"prompt.{i}").tolist(), logits=file.get_tensor(f"logits.{i}").unsqueeze(0)
                )
                for i, key in enumerate(json.loads(file.metadata()["probes"]))
            }
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise VerificationError(f"{path} cannot be read: {error}") from None
    return Recorded("the trainer's model", said)


def write_witness(run: Run, model: PreTrainedModel, path: FastPath, accelerator: Accelerator) -> None:
    """Write prompts' ids, int64, and the logits after them, float32 [words], into the run's folder.

    On a CPU and in float32 alone: the passes that a GPU recorded take rows of training only, and products in 16 bit
    differ by more than the files are allowed to.
    """
    import torch
    from safetensors.torch import save

    from ftx.export.forms import Loaded

    plan = run.plan
    if accelerator.device.type != "cpu" or accelerator.num_processes > 1 or path.dtype != torch.float32:
        return
    tensors: dict[str, torch.Tensor] = {}
    with as_in_chat(model, path), tempfile.TemporaryDirectory(prefix="ftx-probes-") as places:
        form = Loaded(
            "trainer",
            model,
            plan.tokenizer,
            plan.template,
            set(plan.stop_ids),
            plan.images,
            plan.facts.max_positions,
            Path(places),
        )
        probes = form.own_probes()
        for number, probe in enumerate(probes):
            prompt, logits = form.read(probe)
            tensors |= {f"prompt.{number}": torch.tensor(prompt), f"logits.{number}": logits[-1].contiguous()}
    about = {"probes": json.dumps([probe.key for probe in probes]), "plan": _of_plan(plan.as_dict())}
    write_bytes(run.folder / WITNESS, save(tensors, about))
