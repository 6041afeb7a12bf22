"""Configs for outside harnesses that evaluate an artefact: lm-evaluation-harness, OpenCompass and VLMEvalKit.

They are given a whole model's folder, in which the template and the stop tokens it was trained with stand where
transformers looks for them. Field names as in their public documentation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ftx.artifact import Artifact, family_of, model_name
from ftx.atomic import whole_folder, write_text
from ftx.checkpoint_files import read_json
from ftx.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from ftx.plugins import Registry

LM_EVAL_TASKS = ["gsm8k", "ceval-valid"]
MOST_TOKENS = 512
BY_PACKAGE = ("llava_llama",)  # types of model that an installed package opens, though transformers does not


@dataclass(frozen=True)
class Handed:
    """What a harness needs to know of a model. `code`: its folder is opened by Python files that lie in it."""

    folder: Path
    name: str
    model_type: str
    stop: Sequence[str]
    sees: bool
    code: bool


def handed(artifact: Artifact, registry: Registry) -> Handed:
    """Raises RecipeError for an adapter, ModelError for a layout that no harness can open."""
    from transformers import CONFIG_MAPPING

    from ftx.plan import find_family

    if artifact.kind == "adapter":
        raise RecipeError(
            f"--write: {artifact.folder} is an adapter, beside which no harness finds the trained template; merge it "
            f"first: ftx merge {artifact.folder.parent}"
        )
    folder = artifact.folder.resolve()
    family = find_family(family_of(artifact), folder, registry)
    tokenizer = family.tokenizer(folder)
    config = read_json(folder / "config.json")
    kind = str(config.get("model_type"))
    code = kind not in CONFIG_MAPPING and kind not in BY_PACKAGE
    if code and not ("auto_map" in config and any(folder.glob("modeling_*.py"))):
        raise ModelError(
            f"--write: {folder} has the official layout of {kind}, which harnesses open by the publisher's own Python "
            "files, named in config.json under auto_map, and these are not in it; take a base that carries them"
        )
    stop = [tokenizer.decode([i]) for i in artifact.plan["template"]["stop_ids"]]
    name = model_name(artifact.folder)
    return Handed(folder, name, kind, stop, family.image_processor(folder) is not None, code)


def write_config(harness: str, artifact: Artifact, out: Path, registry: Registry) -> tuple[Path, str]:
    """Write the config of `harness` into the new folder `out`; its path, and the command that runs it.

    Raises FtxError.
    """
    model = handed(artifact, registry)
    name, command, make = HARNESSES[harness]
    text = make(model)
    with whole_folder(out) as folder:
        write_text(folder / name, text)
    return out / name, f"{command} {out / name}"


def remote_code(model: Handed) -> str | None:
    """What is to be said of a model that harnesses open by code from its folder."""
    if not model.code:
        return None
    return (
        f"{model.folder} has the official layout of {model.model_type}: harnesses run the Python files in it, which "
        "were written for transformers 4; read them, and give the harness an environment with transformers below 5"
    )


def _lm_eval(model: Handed) -> str:
    config: dict[str, Any] = {
        "model": "hf-multimodal" if model.sees else "hf",
        "model_args": {"pretrained": str(model.folder), "dtype": "auto"},
        "tasks": ["mmmu_val"] if model.sees else LM_EVAL_TASKS,
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
        "gen_kwargs": {"until": list(model.stop), "do_sample": False, "max_gen_toks": MOST_TOKENS},
        "trust_remote_code": model.code,
        "batch_size": 1 if model.sees else "auto",
        "log_samples": True,
        "output_path": "results",
    }
    return _commented("#", model) + yaml.safe_dump(config, allow_unicode=True, sort_keys=False)


def _opencompass(model: Handed) -> str:
    if model.sees:
        raise RecipeError("--write: OpenCompass asks models in text alone; for one that sees take vlmevalkit")
    trust = model.code
    return (
        _commented("#", model)
        + f"""\
from mmengine.config import read_base
from opencompass.models import HuggingFacewithChatTemplate

with read_base():
    from opencompass.configs.datasets.demo.demo_gsm8k_chat_gen import gsm8k_datasets

datasets = gsm8k_datasets

models = [
    dict(
        type=HuggingFacewithChatTemplate,
        abbr={model.name!r},
        path={str(model.folder)!r},
        model_kwargs=dict(torch_dtype='auto', trust_remote_code={trust}),
        tokenizer_kwargs=dict(use_fast=True, trust_remote_code={trust}),
        stop_words={list(model.stop)!r},
        max_out_len={MOST_TOKENS},
        batch_size=8,
        run_cfg=dict(num_gpus=1),
    )
]
"""
    )


# model_type of the folder's config.json -> VLMEvalKit's class and its arguments
_SEEING: Mapping[str, dict[str, Any]] = {
    "internvl_chat": {"class": "InternVLChat", "version": "V2.0"},
    "llava_llama": {"class": "LLaVA"},
    "llava_next": {"class": "LLaVA_Next"},
}


def _vlmevalkit(model: Handed) -> str:
    if not model.sees:
        raise RecipeError("--write: VLMEvalKit asks about pictures, and this model reads text alone; take lm-eval")
    if model.model_type not in _SEEING:
        raise ModelError(
            f"--write: VLMEvalKit has no class that opens a {model.model_type}; write the official layout first: "
            f"ftx export {model.folder} --layout official --out FOLDER"
        )
    arguments = {**_SEEING[model.model_type], "model_path": str(model.folder)}
    data = {"MMBench_DEV_EN_V11": {"class": "ImageMCQDataset", "dataset": "MMBench_DEV_EN_V11"}}
    return json.dumps({"model": {model.name: arguments}, "data": data}, ensure_ascii=False, indent=2) + "\n"


def _commented(mark: str, model: Handed) -> str:
    told = ["Written by ftx eval --write. The chat template and the stop tokens are those of the training."]
    if said := remote_code(model):
        told.append(said + ".")
    return "".join(f"{mark} {one}\n" for one in told)


HARNESSES: Mapping[str, tuple[str, str, Callable[[Handed], str]]] = {
    "lm-eval": ("lm_eval.yaml", "lm-eval run --config", _lm_eval),
    "opencompass": ("opencompass_eval.py", "opencompass", _opencompass),
    "vlmevalkit": ("vlmevalkit.json", "python run.py --config", _vlmevalkit),
}
