"""Merges an adapter into its base, shard by shard, in the base's own layout and dtype."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.artifact import Artifact, seal, write_template
from ftx.atomic import whole_folder
from ftx.checkpoint_files import Checkpoint, read_json
from ftx.console import Console
from ftx.contracts import Layout, ModelFamily
from ftx.errors import ModelError, RecipeError, VerificationError
from ftx.export.forms import load
from ftx.export.quantised import Seen, seen_base
from ftx.export.verify import (
    Finding,
    Trained,
    compare,
    folder_problems,
    precision_problems,
    tolerance_of,
    write_receipt_of,
)
from ftx.export.weights import write_shards

if TYPE_CHECKING:
    import torch

ANSWER_TOKENS = 24  # of each probe's greedy answer
# What a manifest calls the largest difference of logits to the merged model, and to the adapter on the stored base.
DIFFERENCES = ("max_logit_difference", "max_logit_difference_of_stored_base")
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# Features of peft adapters that change the model otherwise than by W + scale * B @ A.
UNMERGEABLE = ("use_dora", "lora_bias", "alora_invocation_tokens")


def merge(
    artifact: Artifact, family: ModelFamily, base: Path, out: Path, console: Console, quantization: Any = None
) -> Artifact:
    """Merge an adapter artefact into `base` and seal the result in `out`.

    With `quantization`, QLoRA's, the weights that training held in few bits are taken as it saw them, dequantised into
    the base's own 16 or 32 bit: the adapter was fitted to those. Without, they are taken as they are stored.
    Never holds more than one shard besides the models of the closing comparison, one after the other: the merged one
    must read, compute and answer as the unmerged one does before the result appears, with the receipt of that. Raises
    RecipeError when `out` exists, ModelError, VerificationError when they differ.
    """
    if artifact.kind != "adapter":
        raise RecipeError(f"{artifact.folder} is a {artifact.kind}, not an adapter: there is nothing to merge")
    if out.exists():
        raise RecipeError(f"--out: {out} exists already; give another folder")
    if family.fingerprint(base) != artifact.manifest["base"]["fingerprint"]:
        raise ModelError(f"{base} is not the base this adapter was trained on (its weights differ)")
    adapter = Adapter.read(artifact.folder)
    with whole_folder(out) as folder:
        seen = seen_base(family, base, quantization) if quantization is not None else None
        merge_weights(adapter, family.layout(base), family.checkpoint(base), folder, seen)
        del seen
        family.copy_companions(base, folder)
        template = (artifact.folder / "chat_template.jinja").read_text("utf-8")
        write_template(folder, template, list(artifact.plan["template"]["stop_ids"]))
        trained, findings = _compared(artifact, family, base, folder, quantization)
        if problems := findings[0].problems:
            raise VerificationError(*(f"{problem}; the merge is discarded" for problem in problems))
        seal(
            folder,
            "merged",
            into="stored" if quantization is None else "trained",
            plan=artifact.plan,
            base=artifact.manifest["base"],
            data=artifact.manifest["data"],
            rows=artifact.manifest.get("rows"),
            metrics={
                **artifact.manifest["metrics"],
                "logit_scale": trained.scale,
                **dict(zip(DIFFERENCES, (finding.difference for finding in findings), strict=False)),
            },
        )
        write_receipt_of(folder, trained, findings)
    merged = Artifact.open(out)
    console.event({"event": "merged", "artifact": str(out), **merged.manifest["metrics"]})
    return merged


def _compared(
    artifact: Artifact, family: ModelFamily, base: Path, merged: Path, quantization: Any
) -> tuple[Trained, list[Finding]]:
    """What training left, the merged model beside it, and the adapter on the stored base where that is another."""
    with tempfile.TemporaryDirectory(prefix="ftx-merge-") as folder:
        places = Path(folder)
        unmerged = load("adapter", family, base, places, artifact.folder, quantization)
        trained = Trained.of(
            unmerged,
            set(artifact.plan["template"]["stop_ids"]),
            unmerged.own_probes(),
            ANSWER_TOKENS,
            tolerance_of(family, base),
        )
        del unmerged
        form = load("merged", family, merged, places)
        finding = compare(trained, form)
        finding.problems[:0] = [*folder_problems(trained, merged, form), *precision_problems(family, base, merged)]
        if quantization is None:
            return trained, [finding]
        del form
        stored = load("adapter on the base as stored", family, base, places, artifact.folder)
        return trained, [finding, compare(trained, stored, rounded=True)]


@dataclass(frozen=True)
class Adapter:
    """An adapter as stored, by names of native parameters.

    `factors` are LoRA's: (A [r, in], B [out, r], scale), for a weight [out, in]. `whole` are parameters that were
    trained whole.
    """

    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor, float]]
    whole: Mapping[str, torch.Tensor]

    @staticmethod
    def read(folder: Path) -> Adapter:
        """Read peft's files. Raises ModelError for a feature that merging would lose."""
        config = read_json(folder / "adapter_config.json")
        if config.get("peft_type") != "LORA":
            raise ModelError(f"{folder} is a {config.get('peft_type')} adapter; ftx merges LoRA")
        if used := [feature for feature in UNMERGEABLE if config.get(feature)]:
            raise ModelError(f"{folder} uses {', '.join(used)}, which cannot be merged yet")
        weights = adapter_weights(folder)
        tensors = weights.read(*weights.shards)
        saved = tuple(f".{module}." for module in config.get("modules_to_save") or ())
        factors, whole = {}, {}
        for name, tensor in tensors.items():
            native = name.removeprefix("base_model.model.")
            if ".lora_A." in name:
                module = native.partition(".lora_A.")[0]
                b = tensors[name.replace(".lora_A.", ".lora_B.")]
                # A GPT-2's weights are [in, out]: the factors change places.
                a, b = (b.T, tensor.T) if config.get("fan_in_fan_out") else (tensor, b)
                factors[f"{module}.weight"] = (a, b, _scale(config, module, a.shape[0]))
            elif any(module in f".{native}" for module in saved):
                whole[native] = tensor
        if len(tensors) != 2 * len(factors) + len(whole):
            raise ModelError(f"{folder} holds tensors other than LoRA factors, which cannot be merged")
        return Adapter(factors, whole)

    @property
    def touched(self) -> set[str]:
        """Names of the native parameters that the adapter changes."""
        return {*self.factors, *self.whole}

    def delta(self, name: str) -> torch.Tensor:
        """scale * B @ A in float32, [out, in]."""
        a, b, scale = self.factors[name]
        return (b.float() @ a.float()) * scale


def adapter_weights(folder: Path) -> Checkpoint:
    """A peft adapter's stored tensors, safetensors or .bin. Raises ModelError."""
    for name in ADAPTER_FILES:
        if (folder / name).is_file():
            return Checkpoint(folder, (name,))
    raise ModelError(f"{folder} holds no adapter: neither {' nor '.join(ADAPTER_FILES)}")


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    import re

    def pattern(table: Mapping[str, Any]) -> Any:
        return next((v for k, v in table.items() if re.search(rf"(^|\.)({k})$", module)), None)

    alpha = pattern(config.get("alpha_pattern") or {}) or config["lora_alpha"]
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def merge_weights(
    adapter: Adapter, layout: Layout, checkpoint: Checkpoint, out: Path, seen: Seen | None = None
) -> None:
    """Write the merged shards. Tensors that neither adapter nor quantisation touches are copied bit for bit.

    `seen` gives the parameters that training held quantised. Raises ModelError when the adapter tunes a parameter
    that the base does not have.
    """
    known = {native for name in checkpoint.tensors for native in layout.native_names(name)}
    if stray := sorted(adapter.touched - known):
        raise ModelError(
            f"the adapter tunes {stray[0]}, which {checkpoint.folder} does not have: it is another model's"
        )
    read = checkpoint.reader()
    write_shards(checkpoint, out, lambda name: _merged(name, read(name), adapter, layout, seen))


def _merged(name: str, stored: torch.Tensor, adapter: Adapter, layout: Layout, seen: Seen | None) -> torch.Tensor:
    import torch

    names = layout.native_names(name)
    if whole := {native: adapter.whole[native] for native in names if native in adapter.whole}:
        return layout.join(name, layout.split(name, stored) | whole).to(stored.dtype)
    deltas = {native: adapter.delta(native) for native in names if native in adapter.factors}
    rounded = {native: weight for native in names if seen and (weight := seen(native)) is not None}
    if not deltas and not rounded:
        return stored
    start = layout.join(name, layout.split(name, stored.float()) | rounded) if rounded else stored.float()
    untouched = layout.split(name, torch.zeros(stored.shape))
    return (start + layout.join(name, untouched | deltas)).to(stored.dtype)


def adapter_base(folder: Path) -> Path:
    """The base folder a peft adapter names. Raises ModelError."""
    named = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise ModelError(f"{folder} names no base model; give --base FOLDER")
    return Path(named)
