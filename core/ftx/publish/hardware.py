"""What the hubs lend to apps, as their pages had it on the days that hardware.json names; today it may be other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ftx.errors import RecipeError, did_you_mean


@dataclass(frozen=True)
class Tier:
    """`ram` and `vram` in GiB, of the GPU 0 without one; `ram` is None where the hub does not tell it."""

    name: str
    ram: float | None
    gpu: str | None
    vram: float
    price: str

    @property
    def sentence(self) -> str:
        ram = f"{self.ram:g} GB of memory" if self.ram is not None else "memory that it does not tell"
        return f"{ram}, and a GPU of {self.vram:g} GB" if self.vram else ram


@dataclass(frozen=True)
class Lent:
    """A hub's machines, smallest first; `default` is what an app gets that names none, `read` when the page was."""

    hub: str
    read: str
    default: Tier
    tiers: Sequence[Tier]

    def tier(self, name: str, *, settable: bool = True) -> Tier:
        """The machine of that name; `settable`: the publisher takes others too. Raises RecipeError."""
        found = next((one for one in self.tiers if one.name == name), None)
        if found is None:
            raise RecipeError(
                f"--hardware {name}: {self.hub} lent no such machine on {self.read}; "
                f"{did_you_mean(name, [one.name for one in self.tiers])}"
                + (f"; one that is newer: --set hardware={name}" if settable else "")
            )
        return found


@cache
def hardware() -> dict[str, Lent]:
    """All hubs that run apps, by the publisher's name."""
    table = json.loads((files("ftx.publish") / "hardware.json").read_text("utf-8"))
    return {hub: _lent(hub, about) for hub, about in table.items()}


def lent_by(hub: str) -> Lent:
    """What that hub lends. Raises RecipeError for one that runs no apps."""
    found = hardware().get(hub)
    if found is None:
        raise RecipeError(f"--hub {hub}: it runs no apps that ftx knows of; {did_you_mean(hub, hardware())}")
    return found


def _lent(hub: str, about: dict[str, object]) -> Lent:
    tiers = [Tier(**one) for one in about["tiers"]]  # type: ignore[attr-defined]
    default = next(one for one in tiers if one.name == about["default"])
    return Lent(hub, str(about["read"]), default, tiers)
