"""Under which licence a tuned model may go out, given the licence of its base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ftx.artifact import Artifact
from ftx.errors import RecipeError

# What is made of a base under one of these may go out under another; all others ask for themselves. By SPDX's names.
PERMISSIVE = {
    *("apache-2.0", "mit", "mit-0", "isc", "zlib", "ncsa", "postgresql", "bsl-1.0", "ecl-2.0", "afl-3.0"),
    *("bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "0bsd", "unlicense", "wtfpl", "cc0-1.0"),
    *("cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "odc-by", "pddl", "cdla-permissive-2.0"),
}
# As ModelScope writes these in its cards.
WRITTEN_OUT = {"apache license 2.0": "apache-2.0", "mit license": "mit"}
NAME = "abcdefghijklmnopqrstuvwxyz0123456789.-_"


@dataclass(frozen=True)
class Licence:
    """What the result goes out under, and what was found of its base. `agreed`: the user answers for another one."""

    id: str
    base: str | None
    agreed: bool


def card_head(folder: Path) -> Mapping[str, Any]:
    """The head of the model card in a folder; empty when there is none that can be read."""
    path = folder / "README.md"
    if not path.is_file():
        return {}
    text = path.read_text("utf-8", "replace")
    if not text.startswith("---"):
        return {}
    try:
        head = yaml.safe_load(text[3:].partition("\n---")[0])
    except yaml.YAMLError:
        return {}
    return head if isinstance(head, dict) else {}


def choose(artifact: Artifact, base: str | None, wanted: str | None, agreed: bool) -> Licence:
    """The licence to publish under; `base` is the base's name on the hub.

    Raises RecipeError when it must be asked for, or when the base's forbids it.
    """
    sealed = artifact.manifest.get("license")  # of what was published already
    before = sealed if isinstance(sealed, Mapping) else {}
    known = _named(card_head(artifact.base).get("license")) or _named(before.get("base"))
    if wanted is not None and (not wanted or set(wanted.lower()) - set(NAME)):
        raise RecipeError(f"--license {wanted}: write it as the hubs do, for example apache-2.0 or other")
    if known is None and not (wanted and agreed):
        raise RecipeError(
            f"the licence of the base {base or artifact.base.name} is not known (its README.md names none): look it "
            "up, say under which one the result goes out with --license ID, and answer for it with --license-agreed"
        )
    earlier = _named(before.get("id"))
    chosen = wanted or (earlier if known and earlier and permits(known, earlier) else str(known))
    if known is None or agreed or permits(known, chosen):
        return Licence(chosen, known, agreed)
    if permits(known, known):
        raise RecipeError(
            f"--license {chosen}: the base is under {known}, which does not allow that; leave --license out, or answer "
            "for it with --license-agreed"
        )
    raise RecipeError(
        f"the base is under {known}, which forbids to pass on what is made of it; if you have leave to, answer for it "
        "with --license-agreed"
    )


def _named(found: object) -> str | None:
    """A licence by its name in small letters; None for what names none."""
    name = found.strip().lower() if isinstance(found, str) else ""
    return WRITTEN_OUT.get(name, name) if name not in ("", "unknown") else None


def permits(base: str, wanted: str) -> bool:
    """Whether what is made of something under `base` may go out under `wanted`."""
    base, wanted = base.lower(), wanted.lower()
    if "-nd-" in base:
        return False
    # https://creativecommons.org/faq: an adaptation of -nc material may be under -nc-sa.
    return base in PERMISSIVE or wanted in (base, base.replace("cc-by-nc-", "cc-by-nc-sa-"))
