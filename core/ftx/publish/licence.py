"""Under which licence a tuned model may go out, given the licence of its base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ftx.errors import RecipeError

# Bases whose terms ask that what is made of them stays under the same terms.
SAME = ("llama", "gemma", "gpl", "agpl", "cc-by-sa", "cc-by-nc-sa", "openrail", "creativeml", "bigscience", "qwen")
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


def choose(base: Path, wanted: str | None, agreed: bool) -> Licence:
    """The licence to publish under. Raises RecipeError when it must be asked for, or when the base's forbids it."""
    found = card_head(base).get("license")
    known = str(found) if isinstance(found, str) and found else None
    if wanted is not None and (not wanted or set(wanted.lower()) - set(NAME)):
        raise RecipeError(f"--license {wanted}: write it as the hubs do, for example apache-2.0 or other")
    if wanted is None and known is None:
        raise RecipeError(
            f"the licence of the base {base.name} is not known (its README.md names none): look it up, and say under "
            "which one the result goes out with --license ID, for example --license apache-2.0"
        )
    chosen = wanted or str(known)
    if known is None or agreed or permits(known, chosen):
        return Licence(chosen, known, agreed)
    raise RecipeError(
        f"--license {chosen}: the base is under {known}, which does not allow that; leave --license out, or answer for "
        "it with --license-agreed"
    )


def permits(base: str, wanted: str) -> bool:
    """Whether what is made of something under `base` may go out under `wanted`, by the rules of the common ones."""
    base, wanted = base.lower(), wanted.lower()
    if base == wanted:
        return True
    if base.startswith(SAME) or base == "other":
        return False
    return "-nc" not in base or "-nc" in wanted
