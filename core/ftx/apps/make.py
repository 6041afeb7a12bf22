"""Makes an app: the model in a layout that anyone reads, the template's files, and the questions to check it by."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.apps.native import described, write_model
from ftx.apps.probes import write_probes
from ftx.artifact import Artifact, family_of, versions
from ftx.atomic import whole_folder, write_json
from ftx.contracts import AppTemplate
from ftx.errors import ModelError, RecipeError, did_you_mean
from ftx.plan import find_family
from ftx.publish.app_model import recorded
from ftx.talk import open_talk

if TYPE_CHECKING:
    from ftx.plugins import Registry

MODEL = "model"  # folder of the model inside an app
MANIFEST = "app.json"


def make_app(
    template: AppTemplate, path: Path, target: str, out: Path, options: Mapping[str, Any], registry: Registry
) -> None:
    """Write the app of `template` for the model in `path`, a folder, a whole artefact or a run, into `out`.

    `options` are the family's name and options. Nothing of it is left when it cannot be made: ModelError for an adapter
    and for a model that cannot be an app's, RecipeError for a target that the template does not have.
    """
    if target not in template.targets:
        raise RecipeError(f"--target: {template.name} has no '{target}'; {did_you_mean(target, template.targets)}")
    if out.exists():
        raise RecipeError(f"--out: {out} exists already; give another folder")
    template.check(target)
    artifact, source = _whole_model(path)
    family = find_family({**family_of(artifact), **options}, source, registry)
    talk = open_talk(source, registry, options=options)
    with whole_folder(out) as folder:
        write_model(source, family, talk, folder / MODEL)
        model = described(folder / MODEL, artifact, source)
        template.render(model, target, folder)
        write_probes(talk, artifact, folder, system=template.system, pictures=(folder / "eyes.py").is_file())
        made: dict[str, Any] = {
            "template": template.name,
            "target": target,
            "health": template.health,
            "versions": versions(),
        }
        if template.carries_model():
            made["model"] = recorded(artifact, model.license, folder / MODEL)
        else:
            shutil.rmtree(folder / MODEL)
        write_json(folder / MANIFEST, made)


def _whole_model(path: Path) -> tuple[Artifact | None, Path]:
    """The artefact in `path`, if it is one, and the folder of its model. Raises ModelError."""
    if not path.is_dir():
        raise ModelError(f"--model: {path} does not exist or is no folder")
    artifact = Artifact.find(path)
    source = artifact.folder if artifact else path
    if (source / "adapter_config.json").is_file():
        lost = artifact is not None and not artifact.base.is_dir()
        base = " --base FOLDER, as its base is not where it was" if lost else ""
        raise ModelError(
            f"--model: {source} is an adapter, and an app wants a whole model; merge it first: ftx merge {path}{base}"
        )
    return artifact, source
