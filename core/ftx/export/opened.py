"""A whole text model with the template it was trained on, as other engines' tools are to get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.artifact import Artifact, family_of
from ftx.contracts import ModelFacts, ModelFamily
from ftx.data.template import Template
from ftx.data.tokens import Tokenizer
from ftx.errors import ModelError, RecipeError
from ftx.plan import chosen_template, find_family, generation_eos

if TYPE_CHECKING:
    from ftx.plugins import Registry


@dataclass(frozen=True)
class Whole:
    """A model folder, merged or full, with all that its answers depend on besides the weights."""

    folder: Path
    artifact: Artifact | None
    family: ModelFamily
    facts: ModelFacts
    tokenizer: Tokenizer
    template: Template
    stop_ids: list[int]

    @property
    def sees(self) -> bool:
        return len(self.family.parts) > 1


def find_whole(path: Path) -> tuple[Path, Artifact | None]:
    """The folder of the whole model in `path`, a folder, a merged or full result, or a run, and its artefact.

    Raises ModelError, VerificationError, and RecipeError for an adapter, which is to be merged first.
    """
    if not path.is_dir():
        raise ModelError(f"{path} does not exist or is no folder")
    artifact = Artifact.find(path)
    folder = artifact.folder if artifact else path
    if (folder / "adapter_config.json").is_file():
        raise RecipeError(f"{folder} is an adapter; merge it first: ftx merge {path}")
    return folder, artifact


def open_whole(path: Path, registry: Registry, options: Mapping[str, Any] | None = None) -> Whole:
    """Find the model in `path`: a folder, a merged or full result, or a run; no tensor is loaded.

    Raises ModelError, VerificationError, and RecipeError for an adapter, which is to be merged first.
    """
    folder, artifact = find_whole(path)
    family = find_family({**family_of(artifact), **(options or {})}, folder, registry)
    facts = family.inspect(folder)
    tokenizer = family.tokenizer(folder)
    template = chosen_template(folder, "auto", tokenizer, family, folder)
    if unfit := template.check(tokenizer):
        raise ModelError(*unfit)
    stop_ids = sorted(set(template.stop_ids(tokenizer)) | generation_eos(folder))
    return Whole(folder, artifact, family, facts, tokenizer, template, stop_ids)
