"""Writes a model whole in another layout of its family, for the tools that expect that one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.artifact import family_of, seal
from ftx.atomic import whole_folder
from ftx.errors import ModelError, RecipeError, did_you_mean
from ftx.export.opened import find_whole
from ftx.plan import find_family

if TYPE_CHECKING:
    from ftx.contracts import ModelFamily
    from ftx.plugins import Registry

SEALED_ANEW = ("kind", "created", "versions", "files")


def export(path: Path, layout: str, out: Path, options: Mapping[str, Any], registry: Registry) -> None:
    """Write the model in `path`, a folder, a whole artefact or a run, into `out`; what was sealed is sealed again.

    `options` are the family's name and options, over those that an artefact has. Raises RecipeError for a layout that
    the family does not write, an `out` that exists, an adapter; ModelError; VerificationError for a changed artefact.
    """
    if out.exists():
        raise RecipeError(f"--out: {out} exists already; give another folder")
    source, artifact = find_whole(path)
    family = find_family({**family_of(artifact), **options}, source, registry)
    if not family.layouts:
        raise RecipeError(f"--layout: family {family.name} writes no layout but the model's own")
    if layout not in family.layouts:
        raise RecipeError(f"--layout: '{layout}' is not known; {did_you_mean(layout, family.layouts)}")
    family.inspect(source)
    with whole_folder(out) as folder:
        family.convert(source, layout, folder)
        if artifact:
            facts = {key: value for key, value in artifact.manifest.items() if key not in SEALED_ANEW}
            reader = _reader(folder, family, registry)
            seal(folder, artifact.kind, **{**facts, "plan": {**artifact.plan, "family": reader}})


def _reader(folder: Path, family: ModelFamily, registry: Registry) -> dict[str, Any]:
    """Name and options of the family that reads what was written: the one that wrote it, or another's layout's own."""
    try:
        family.inspect(folder)
    except ModelError:
        family = find_family({"name": "auto"}, folder, registry)
    return {"name": family.name, **family.model_dump(mode="json")}
