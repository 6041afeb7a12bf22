"""The model card: what others need to know of a model before they use it, from its seal and its verification."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ftx.artifact import Artifact
from ftx.export.receipt import Receipt
from ftx.publish.licence import Licence

LIBRARY = {"adapter": "peft", "merged": "transformers", "model": "transformers"}
RELATION = {"adapter": "adapter", "merged": "finetune", "model": "finetune"}
SHOWN = 3  # answers of the verification that the card quotes


def head(artifact: Artifact, base_repo: str | None, licence: Licence, base_card: Mapping[str, Any]) -> dict[str, Any]:
    """The card's YAML head as Hugging Face reads it."""
    card: dict[str, Any] = {"license": licence.id}
    for key in ("license_name", "license_link") if licence.id == "other" else ():
        if isinstance(base_card.get(key), str):
            card[key] = base_card[key]
    card["library_name"] = LIBRARY[artifact.kind]
    card["pipeline_tag"] = "image-text-to-text" if _sees(artifact) else "text-generation"
    if base_repo:
        card["base_model"] = base_repo
        card["base_model_relation"] = RELATION[artifact.kind]
    if datasets := _datasets(artifact.plan):
        card["datasets"] = datasets
    card["tags"] = ["ftx", str(artifact.plan["method"]["name"])]
    return card


def card_text(front: Mapping[str, Any], artifact: Artifact, name: str, receipt: Receipt | None) -> str:
    """README.md: the head, what the model is, how it was made, and what it was found to answer."""
    parts = [
        f"# {name}",
        _what(front, artifact),
        "## Use",
        _use(front, artifact, name),
        "## Training",
        _table(_training(artifact)),
        "## Measured in the run",
        _table({key: _number(value) for key, value in artifact.manifest.get("metrics", {}).items()}),
    ]
    if receipt:
        parts += ["## Verification", _verification(receipt)]
    yaml_head = yaml.safe_dump(dict(front), allow_unicode=True, sort_keys=False)
    return f"---\n{yaml_head}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _sees(artifact: Artifact) -> bool:
    places = (artifact.folder, artifact.base)
    return any((place / name).is_file() for place in places for name in ("preprocessor_config.json",))


def _datasets(plan: Mapping[str, Any]) -> list[str]:
    """The data sets on Hugging Face; a local file is nobody else's business."""
    sources = [one.get("source", {}) for one in plan.get("data", {}).get("sets", ())]
    return sorted({str(source["repo"]) for source in sources if source.get("name") == "huggingface"})


def _what(front: Mapping[str, Any], artifact: Artifact) -> str:
    base = front.get("base_model")
    of = f" of [{base}](https://huggingface.co/{base})" if base else ""
    what = {"adapter": "A LoRA adapter", "merged": "A tuned model, adapter merged in,", "model": "A tuned model"}
    return (
        f"{what[artifact.kind]}{of}, made with ftx {artifact.manifest['versions']['ftx']}. Its prompt template is in "
        "`chat_template.jinja`; the sha256 of every file is in `ftx.json`."
    )


def _use(front: Mapping[str, Any], artifact: Artifact, name: str) -> str:
    folder = Path(name).name
    base = ""
    if artifact.kind == "adapter":
        base = f" --base {Path(str(front.get('base_model', 'base'))).name}"
    return f"With this repository in the folder `{folder}`:\n\n```shell\nftx chat {folder}{base}\n```"


def _training(artifact: Artifact) -> dict[str, str]:
    plan = artifact.plan
    method = {key: value for key, value in plan["method"].items() if value is not None and key != "produces"}
    rows = artifact.manifest.get("rows") or {}
    found = {
        "method": ", ".join(f"{key} {value}" for key, value in method.items()),
        "template": str(plan["template"]["name"]),
        "rows kept": _number(rows.get("kept")),
        "data sha256": ", ".join(str(one) for one in artifact.manifest.get("data") or ()),
    }
    for key in ("steps", "lr", "global_batch_size", "seed", "dtype"):
        found[key] = _number(plan.get("train", {}).get(key))
    return found


def _verification(receipt: Receipt) -> str:
    lines = [
        f"`ftx verify` passed on {receipt.created}: " + ", ".join(str(form["form"]) for form in receipt.forms) + "."
    ]
    for probe in receipt.probes[:SHOWN]:
        lines += [f"> {_quoted(probe.question)}", f"> {_quoted(probe.answer)}"]
    return "\n\n".join(lines)


def _quoted(text: str) -> str:
    return text.replace("\n", "\n> ")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/").replace("\n", " ")


def _table(rows: Mapping[str, str]) -> str:
    shown = {key: value for key, value in rows.items() if value not in ("", "None")}
    if not shown:
        return ""
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in shown.items())])
