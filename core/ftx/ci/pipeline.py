"""Writes the pipeline of a project: its files rendered first, then put in place."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ftx.ci.inputs import Inputs
from ftx.errors import RecipeError, StorageError
from ftx.redaction import SECRET_VARIABLE
from ftx.templates import rendered_with_brackets
from ftx.user_paths import refuse_bad_paths

STEPS = "ci/ftx.sh"
# kind -> where each template goes in the project
FILES: Mapping[str, Mapping[str, str]] = {
    "github": {
        "ci_github/ftx.yml.jinja": ".github/workflows/ftx.yml",
        "ci_github/ftx-train.yml.jinja": ".github/workflows/ftx-train.yml",
        "ci_shell/ftx.sh.jinja": STEPS,
    },
    "gitlab": {"ci_gitlab/gitlab-ci.yml.jinja": ".gitlab-ci.yml", "ci_shell/ftx.sh.jinja": STEPS},
    "jenkins": {"ci_jenkins/Jenkinsfile.jinja": "Jenkinsfile", "ci_shell/ftx.sh.jinja": STEPS},
    "shell": {"ci_shell/ftx.sh.jinja": STEPS},
}
# Of what all files of a folder are called.
EVERY_FILE = {"github": "**", "gitlab": "**/*"}
# Commits of the actions' releases.
ACTIONS = {
    "checkout": "actions/checkout@de0fac2e4500dabe0009e67214ff5f5447ce83dd # v6.0.2",
    "cache": "actions/cache@55cc8345863c7cc4c66a329aec7e433d2d1c52a9 # v6.1.0",
    "restore": "actions/cache/restore@55cc8345863c7cc4c66a329aec7e433d2d1c52a9 # v6.1.0",
    "save": "actions/cache/save@55cc8345863c7cc4c66a329aec7e433d2d1c52a9 # v6.1.0",
    "upload": "actions/upload-artifact@b7c566a772e6b6bfb58ed0dc250532a479d7789f # v6.0.0",
}
ATTEMPTS = 3  # stretches of a training that its time limit or a signal may cut it into
# NAME:TAG@DIGEST with a registry before it, as container engines write it.
IMAGE = re.compile(
    r"(?:[a-zA-Z0-9.-]+(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@sha256:[0-9a-f]{64})?"
)
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Publishing:
    """`more` are further words of `ftx publish`, quoted for a shell; `tokens` the variables that it reads."""

    hub: str
    repo: str
    more: tuple[str, ...]
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Pipeline:
    """What is asked for. `command` wrote it, and stands in its files."""

    kind: str
    inputs: Inputs
    command: str
    image: str | None = None
    runner: str | None = None
    gpus: bool = False
    merge: bool = False
    probes: str | None = None
    publish: Publishing | None = None


def refuse_image(image: str | None, kind: str) -> None:
    """Raise RecipeError for an image that cannot be one."""
    if image is None and kind != "shell":
        raise RecipeError(
            "--image: every job runs in an image of ftx; name it, by digest where it can be, as "
            "--image registry.example.org/ftx@sha256:..."
        )
    if image is not None and not IMAGE.fullmatch(image):
        raise RecipeError(f"--image {image}: write it as NAME:TAG or NAME@sha256:..., as docker pull takes it")


def refuse_runner(runner: str | None, gpus: bool, kind: str) -> None:
    """Raise RecipeError for what is no runner's label, and for GPUs where a pipeline cannot give them."""
    if gpus and kind == "gitlab":
        raise RecipeError(
            "--gpus: GitLab's runner gives its jobs the GPUs that its own configuration names; leave it out"
        )
    if runner is not None and kind == "shell":
        raise RecipeError("--runner: the shell's job runs where it is started; leave it out")
    if runner is not None and not LABEL.fullmatch(runner):
        raise RecipeError(f"--runner {runner}: write one label, of letters, digits, '.', '_' and '-'")


def rendered(pipeline: Pipeline) -> dict[str, str]:
    """Text of each file by its path in the project."""
    inputs = pipeline.inputs
    every = EVERY_FILE.get(pipeline.kind, "")
    own = [path for path in FILES[pipeline.kind].values() if path != STEPS]
    read = [*inputs.files, *([pipeline.probes] if pipeline.probes else []), *own]
    values: dict[str, Any] = {
        **vars(pipeline),
        "image": pipeline.image or "",
        "recipe": inputs.recipe,
        "data": inputs.checks,
        "inputs": list(dict.fromkeys(_pattern(path, every) for path in read)),
        "local_model": inputs.local,
        "read_tokens": list(inputs.tokens),
        "secrets": [name for name in inputs.hubs if SECRET_VARIABLE.search(name)],
        "open": [name for name in inputs.hubs if not SECRET_VARIABLE.search(name)],
        "publish": pipeline.publish and {**vars(pipeline.publish), "tokens": list(pipeline.publish.tokens)},
        "actions": ACTIONS,
        "attempts": ATTEMPTS,
    }
    filters = {"shell": shlex.quote, "yaml": _yaml, "github": _quoted, "groovy": _quoted}
    places = FILES[pipeline.kind].items()
    return {place: rendered_with_brackets(template, values, filters) for template, place in places}


def _pattern(path: str, every: str) -> str:
    return f"{path}{every}".removeprefix("./") if path.endswith("/") else path


def _yaml(text: str) -> str:
    """A text as YAML reads it back, bare where it can be."""
    bare = re.fullmatch(r"[A-Za-z.][A-Za-z0-9._/*-]*", text) and yaml.safe_load(f"- {text}") == [text]
    return text if bare else json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
    """In single quotes; what is written so holds none (`ftx.ci.inputs.UNSAFE`)."""
    return f"'{text}'"


def write(texts: Mapping[str, str], root: Path, *, force: bool) -> None:
    """Put the files into the folder `root`: all of them, or none.

    Raises RecipeError for files that are there, unless `force`, and StorageError.
    """
    for name in texts:
        _refuse_place(root, name, force)
    try:
        root.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=".ftx-ci.", dir=root))
    except OSError as error:
        raise StorageError(f"--out: {root} could not be written: {error.strerror}") from None
    try:
        for number, text in enumerate(texts.values()):
            (workshop / str(number)).write_text(text, "utf-8")
        for name in texts:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(texts):
            (workshop / str(number)).chmod(0o755 if name == STEPS else 0o644)
            os.replace(workshop / str(number), root / name)
    except OSError as error:
        raise StorageError(f"--out: {root} could not be written: {error.strerror}") from None
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


@refuse_bad_paths()
def _refuse_place(root: Path, name: str, force: bool) -> None:
    place = root / name
    for above in (one for one in place.parents if one != root and one.is_relative_to(root)):
        if above.exists() and not above.is_dir():
            raise RecipeError(f"--out: {above} is a file, and {name} goes below it; move it away")
    if place.is_dir():
        raise RecipeError(f"--out: {place} is a folder, and a file of that name is to be written; move it away")
    if (place.exists() or place.is_symlink()) and not force:
        raise RecipeError(f"--out: {place} exists already; add --force to write it anew, or name another --out")
