"""What the trainer's own model says to the first probes, for `ftx verify` to hold the written files against."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ftx.atomic import write_bytes
from ftx.errors import VerificationError
from ftx.train.ask import as_in_chat

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from ftx.export.forms import Recorded
    from ftx.run import Run
    from ftx.train.path import FastPath

WITNESS = "trainer.safetensors"


def read_witness(folder: Path) -> Recorded | None:
    """What was written into a run's folder; None where there is nothing. Raises VerificationError."""
    from safetensors import SafetensorError, safe_open

    from ftx.export.forms import Recorded, Said

    if not (folder / WITNESS).is_file():
        return None
    try:
        with safe_open(folder / WITNESS, "pt") as file:
            said = {
                key: Said(
                    prompt=file.get_tensor(f"prompt.{i}").tolist(), logits=file.get_tensor(f"logits.{i}").unsqueeze(0)
                )
                for i, key in enumerate(json.loads(file.metadata()["probes"]))
            }
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise VerificationError(f"{folder / WITNESS} cannot be read: {error}") from None
    return Recorded("the trainer's model", said)


def write_witness(run: Run, model: PreTrainedModel, path: FastPath, accelerator: Accelerator) -> None:
    """Write prompts' ids, int64, and the logits after them, float32 [words], into the run's folder.

    On a CPU alone: the passes that a GPU recorded take rows of training only.
    """
    import torch
    from safetensors.torch import save

    from ftx.export.forms import Loaded
    from ftx.export.probes import own_probes

    plan = run.plan
    if accelerator.device.type != "cpu" or accelerator.num_processes > 1:
        return
    probes = own_probes(sees=plan.images is not None)
    tensors: dict[str, torch.Tensor] = {}
    with as_in_chat(model, path), tempfile.TemporaryDirectory(prefix="ftx-probes-") as places:
        form = Loaded("trainer", model, plan.tokenizer, plan.template, set(plan.stop_ids), plan.images, Path(places))
        for number, probe in enumerate(probes):
            prompt, logits = form.read(probe)
            tensors |= {f"prompt.{number}": torch.tensor(prompt), f"logits.{number}": logits[-1].contiguous()}
    about = {"probes": json.dumps([probe.key for probe in probes])}
    write_bytes(run.folder / WITNESS, save(tensors, about))
