"""`ftx verify`: finds the forms of a model, compares each with what training left, and leaves receipts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.artifact import MANIFEST, Artifact, family_of
from ftx.contracts import ModelFamily
from ftx.errors import ModelError, RecipeError, VerificationError
from ftx.export.forms import Endpoint, Loaded, load
from ftx.export.merge import adapter_base
from ftx.export.probes import Probe
from ftx.export.quantised import method_of, quantization_of, weight_problems
from ftx.export.verify import (
    Finding,
    Trained,
    compare,
    folder_problems,
    missing_processor,
    precision_problems,
    reading_problems,
    tolerance_of,
    write_receipt_of,
)
from ftx.plan import find_family
from ftx.train.witness import read_witness

if TYPE_CHECKING:
    from ftx.plugins import Registry

MAX_NEW_TOKENS = 48


@dataclass(frozen=True)
class Subject:
    """What is verified: `folder` with its model's `base` (the folder itself where it is whole and has none).

    `merged` is the whole model beside an adapter, where there is one.
    """

    folder: Path
    base: Path
    artifact: Artifact | None
    family: ModelFamily
    quantization: Any
    merged: Path | None

    @property
    def adapter(self) -> Path | None:
        return self.folder if (self.folder / "adapter_config.json").is_file() else None

    @property
    def whole(self) -> Path:
        """The folder of the model that the reference is made of."""
        return self.base if self.adapter else self.folder


def verify(
    path: Path,
    registry: Registry,
    *,
    base: Path | None = None,
    others: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    probes: Sequence[Probe] | None = None,
    key: str | None = None,
    rounded: bool = False,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[Finding]:
    """Compare the forms of the model in `path`, a run, an artefact or a model's folder, and write receipts.

    Compared are what the run folder holds and `others`: folders, and addresses of servers, which hold the model in 4 or
    8 bits if `rounded`. `probes`: ftx's own unless given. Raises ModelError, VerificationError for a changed artefact,
    RecipeError, HubError for a server that refuses.
    """
    if rounded and not any(map(_is_address, others)):
        raise RecipeError("--rounded says something of servers; name the address of one, or leave it out")
    subject = find_subject(path, registry, base, options or {})
    with tempfile.TemporaryDirectory(prefix="ftx-verify-") as places:
        trained, first = _reference(subject, probes, max_new_tokens, Path(places))
        witness = read_witness(subject.artifact) if subject.artifact else None
        # Of other questions than it was asked the trainer's model tells nothing.
        asked = witness and [compare(trained, witness)] * any(probe.key in witness.said for probe in trained.probes)
        findings = [first, *(asked or []), *_beside(subject, trained, Path(places))]
        beside = {other: _other(other, subject, trained, registry, Path(places), key, rounded) for other in others}
    # A server that is wrong says nothing against the artefact that it was made of.
    for folder in filter(None, (subject.folder, subject.merged)):
        write_receipt_of(folder, trained, findings)
    for other, finding in beside.items():
        write_receipt_of(Path(other), trained, [*findings, finding])
    return [*findings, *beside.values()]


def find_subject(path: Path, registry: Registry, base: Path | None, options: Mapping[str, Any]) -> Subject:
    """What `path` holds: of a run's adapter and merged model the adapter is the one that training left."""
    if not path.is_dir():
        raise ModelError(f"{path} does not exist or is no folder")
    artifact, merged = _trained_first(Artifact.find(path))
    folder = artifact.folder if artifact else path
    adapter = (folder / "adapter_config.json").is_file()
    base = base or _base_of(folder, artifact, adapter)
    if not base.is_dir():
        raise ModelError(f"the base model {base} is not there; give --base FOLDER")
    family = find_family({**family_of(artifact), **options}, base, registry)
    if artifact is None or not adapter:
        return Subject(folder, base, artifact, family, None, merged)
    if family.fingerprint(base) != artifact.manifest["base"]["fingerprint"]:
        raise ModelError(f"{base} is not the base this adapter was trained on (its weights differ)")
    known = artifact.plan.get("method", {}).get("name") in registry.parts["method"]
    quantization = quantization_of(method_of(artifact, registry), family) if known else None
    return Subject(folder, base, artifact, family, quantization, merged)


def _trained_first(found: Artifact | None) -> tuple[Artifact | None, Path | None]:
    """The artefact, and the folder of the merged model beside it: of the two the adapter is what training left."""
    if found is None or found.kind not in ("adapter", "merged"):
        return found, None
    sibling = found.folder.parent / ("merged" if found.kind == "adapter" else "adapter")
    other = Artifact.open(sibling) if (sibling / MANIFEST).is_file() else None
    if other is None or other.kind == found.kind or other.manifest["base"] != found.manifest["base"]:
        return found, None
    return (found, sibling) if found.kind == "adapter" else (other, found.folder)


def _base_of(folder: Path, artifact: Artifact | None, adapter: bool) -> Path:
    if adapter:
        return artifact.base if artifact else adapter_base(folder)
    return artifact.base if artifact and artifact.base.is_dir() else folder


def _reference(
    subject: Subject, probes: Sequence[Probe] | None, max_new_tokens: int, places: Path
) -> tuple[Trained, Finding]:
    """What training left, and how its own folder would be read."""
    quantization = subject.quantization if subject.adapter else None
    name = subject.artifact.kind if subject.artifact else "model"
    form = load(name, subject.family, subject.whole, places, subject.adapter, quantization)
    asked = probes or form.own_probes()
    stops = (
        set(subject.artifact.plan["template"]["stop_ids"])
        if subject.artifact
        else form.stops | set(form.template.stop_ids(form.tokenizer))
    )
    trained = Trained.of(replace(form), stops, asked, max_new_tokens, tolerance_of(subject.family, subject.whole))
    finding = compare(trained, form)
    finding.problems[:0] = folder_problems(trained, subject.folder, form)
    if not subject.adapter and subject.base != subject.folder:
        finding.problems[:0] = _changed_since_base(subject, trained)
    return trained, finding


def _changed_since_base(subject: Subject, trained: Trained) -> Iterator[str]:
    """How a whole model differs from its base in what training does not change."""
    base = subject.base
    rows = subject.family.inspect(base).vocab_size, subject.family.inspect(subject.folder).vocab_size
    if rows[0] != rows[1]:
        yield f"{subject.folder}: its vocabulary has {rows[1]:,} rows where the base has {rows[0]:,}: padded or cut"
    of_base = subject.family.tokenizer(base), subject.family.image_processor(base)
    yield from reading_problems(subject.folder, of_base, (trained.tokenizer, trained.images))
    yield from missing_processor(base, subject.folder)
    yield from precision_problems(subject.family, base, subject.folder)


def _beside(subject: Subject, trained: Trained, places: Path) -> Iterator[Finding]:
    """The forms that stand beside an adapter: it on the base as stored, and the merged model."""
    if subject.adapter and subject.quantization is not None:
        form = load("adapter on the base as stored", subject.family, subject.base, places, subject.adapter)
        yield compare(trained, form, rounded=True)
    if subject.merged:
        stored = subject.quantization is not None and Artifact.open(subject.merged).manifest.get("into") == "stored"
        yield _folder(subject.merged, subject, trained, subject.family, places, "merged", rounded=stored)


def _folder(
    folder: Path,
    subject: Subject,
    trained: Trained,
    family: ModelFamily,
    places: Path,
    name: str,
    *,
    rounded: bool = False,
) -> Finding:
    adapter = folder if (folder / "adapter_config.json").is_file() else None
    form = load(name, family, adapter_base(folder) if adapter else folder, places, adapter)
    # An adapter's weights are in none of its base's: there the logits alone tell.
    source = subject.merged or (None if subject.adapter else subject.folder)
    damaged = [*weight_problems(form.model, subject.family, source)] if source else []
    finding = compare(trained, form, rounded=rounded or is_rounded(form))
    own = [*folder_problems(trained, folder, form), *missing_processor(subject.whole, folder), *damaged]
    if not adapter and family.name == subject.family.name and not is_rounded(form):
        own += precision_problems(family, subject.whole, folder)
    finding.problems[:0] = own
    return finding


def is_rounded(form: Loaded) -> bool:
    """Whether a model holds layers in 4 or 8 bits."""
    return getattr(form.model.config, "quantization_config", None) is not None


def _other(
    other: str, subject: Subject, trained: Trained, registry: Registry, places: Path, key: str | None, rounded: bool
) -> Finding:
    if _is_address(other):
        return compare(trained, Endpoint(other, other, places, key), rounded=rounded)
    folder = Path(other)
    if not folder.is_dir():
        raise RecipeError(f"'{other}' is neither a folder nor the address of a server (http://...)")
    seal = _broken_seal(folder)
    family = find_family({"name": "auto"}, folder if (folder / "config.json").is_file() else subject.base, registry)
    finding = _folder(folder, subject, trained, family, places, other)
    finding.problems[:0] = seal
    return finding


def _is_address(other: str) -> bool:
    return other.startswith(("http://", "https://"))


def _broken_seal(folder: Path) -> Sequence[str]:
    if not (folder / MANIFEST).is_file():
        return []
    try:
        Artifact.open(folder)
    except VerificationError as error:
        return error.problems
    return []
