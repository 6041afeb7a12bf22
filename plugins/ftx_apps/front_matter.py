"""What a hub reads at the head of README.md."""

from __future__ import annotations

from typing import Any

import yaml


def front_matter(target: str, kind: str, values: dict[str, Any]) -> str:
    """The YAML of an app on `target`, "" where nobody reads one. `kind` is "gradio" or "streamlit".

    `values`: title, license, port, versions, python, model_repo, model_hub, entry.
    """
    made = {
        "huggingface": _space,
        "huggingface-docker": _docker_space,
        "modelscope": _studio,
    }.get(target)
    if made is None:
        return ""
    return yaml.safe_dump(made(kind, values), sort_keys=False, allow_unicode=True)


def _models(values: dict[str, Any], hub: str) -> dict[str, Any]:
    """The model's repository, where it lies on the same hub: elsewhere the name is another's, or nobody's."""
    return {"models": [values["model_repo"]]} if values["model_repo"] and values["model_hub"] == hub else {}


def _space(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": values["title"],
        "emoji": "💬",
        "colorFrom": "blue",
        "colorTo": "green",
        "sdk": "gradio",
        "sdk_version": values["versions"]["gradio"],
        "python_version": values["python"],
        "app_file": "app.py",
        "license": values["license"],
        **_models(values, "huggingface"),
    }


def _docker_space(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": values["title"],
        "emoji": "💬",
        "colorFrom": "blue",
        "colorTo": "green",
        "sdk": "docker",
        "app_port": values["port"],
        "license": values["license"],
        **_models(values, "huggingface"),
    }


def _studio(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    return {
        "domain": ["multi-modal" if values["sees"] else "nlp"],
        "tags": ["chat"],
        "license": values["license"],
        "deployspec": {"entry_file": values["entry"]},
        **_models(values, "modelscope"),
    }
