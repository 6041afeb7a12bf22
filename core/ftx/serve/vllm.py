"""vLLM's command line, and a Dockerfile with it, for a whole model that says itself how to talk and when to stop.

Options: https://docs.vllm.ai/en/stable/cli/serve/. vLLM takes stop ids from generation_config.json by itself.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.checkpoint_files import read_json
from ftx.errors import ModelError
from ftx.export.opened import open_whole
from ftx.plan import generation_eos

if TYPE_CHECKING:
    from ftx.plugins import Registry

VERSION = "0.33.0"  # of vLLM, whose image the Dockerfile builds on
PORT = 8000  # inside the image
MODEL = "/model"  # inside the image
# Layouts that transformers, and so vLLM, reads without code from the folder.
NATIVE_LAYOUTS = ("transformers", "huggingface")
GREEDY = {"temperature": 0}  # unless a client asks otherwise, as with ftx serve


@dataclass(frozen=True)
class Servable:
    """A folder that vLLM can serve as `name`; `template` says whether its chat template is a file of its own."""

    folder: Path
    name: str
    template: bool
    max_positions: int


def servable(path: Path, options: Mapping[str, Any], registry: Registry, name: str) -> Servable:
    """The whole model in `path`, a folder, an artefact or a run. `options` are the family's.

    Raises RecipeError for an adapter, and ModelError for a model that vLLM could not read without remote code, or that
    does not say how to talk or when to stop.
    """
    whole = open_whole(path, registry, options)
    folder = whole.folder
    _refuse_remote_code(path, folder, whole.family.layouts)
    own_file = (folder / "chat_template.jinja").is_file()
    if not own_file and whole.tokenizer.chat_template is None:
        raise ModelError(f"{folder} has no chat template; train or merge it with ftx, which writes one")
    stops = whole.template.stop_ids(whole.tokenizer)
    missing = sorted(set(stops) - generation_eos(folder))
    if missing or not stops:
        raise ModelError(
            f"{folder / 'generation_config.json'} does not list the stop ids {missing or ''} in eos_token_id, so vLLM "
            "would not stop; add them, or train or merge with ftx, which writes them"
        )
    return Servable(folder, name, own_file, whole.facts.max_positions)


def _refuse_remote_code(path: Path, folder: Path, layouts: tuple[str, ...]) -> None:
    from transformers import CONFIG_MAPPING

    kind = str(read_json(folder / "config.json").get("model_type"))
    if kind in CONFIG_MAPPING:
        return
    native = [layout for layout in layouts if layout in NATIVE_LAYOUTS]
    way = (
        f"write it in the layout '{native[0]}' first: ftx export {path} --layout {native[0]} --out FOLDER"
        if native
        else f"ftx serve {path} reads it without, and so does LMDeploy"
    )
    raise ModelError(f"{folder}: vLLM reads model_type '{kind}' only by running code from the folder; {way}")


def arguments(model: Servable, folder: str, host: str, port: int) -> list[str]:
    """The command, word by word, for the model in `folder`. The key is the environment's VLLM_API_KEY."""
    template = ["--chat-template", f"{folder}/chat_template.jinja"] if model.template else []
    return [
        *("vllm", "serve", folder),
        *("--served-model-name", model.name),
        *("--host", host, "--port", str(port)),
        *("--max-model-len", str(model.max_positions)),
        *template,
        *("--generation-config", folder, "--override-generation-config", json.dumps(GREEDY)),
    ]


def command(model: Servable, host: str, port: int) -> str:
    """The command as a line for a shell."""
    return shlex.join(arguments(model, str(model.folder), host, port)) + "\n"


def dockerfile(model: Servable) -> str:
    """A Dockerfile that is built in the model's folder: docker build -f Dockerfile -t NAME FOLDER."""
    words = json.dumps(arguments(model, MODEL, "0.0.0.0", PORT))  # noqa: S104  (a container's own address)
    alive = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/health', timeout=5)"
    return f"""# Built in the model's folder: docker build -f Dockerfile -t NAME {shlex.quote(str(model.folder))}
# Started with: docker run --gpus all --ipc=host -p {PORT}:{PORT} -e VLLM_API_KEY NAME
FROM vllm/vllm-openai:v{VERSION}
RUN useradd --create-home --uid 10001 serve
COPY --chown=serve . {MODEL}
USER serve
ENV HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
EXPOSE {PORT}
HEALTHCHECK --start-period=15m --interval=30s --timeout=10s CMD {json.dumps(["python3", "-c", alive])}
ENTRYPOINT {words}
CMD []
"""
