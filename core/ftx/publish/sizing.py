"""Which of a hub's machines an app starts on: on one that is too small it fails without a word there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftx.artifact import Artifact
from ftx.contracts import RemoteFile
from ftx.errors import ModelError, OutOfMemory
from ftx.publish.footprint import GIB, Footprint, estimated, estimated_of_size, footprint, weighed
from ftx.publish.hardware import Lent, Tier, hardware

# As ftx's apps choose their place (deploy_templates/every_app/place.py): on a GPU with room for so much, in 4 bit with
# so much of that, on the processor else.
ROOM = 1.2  # of the weights in 16 bit
FOUR_BIT = 0.35
GPU_AROUND = 0.5  # GiB of CUDA itself, by estimate
BITS = (16, 8, 4)
WEIGHTS = (".safetensors", ".bin")  # the first kind that is there
UNASKED = 4 * GIB  # the largest model that is loaded to see what it takes without being asked to
ANY = "any"  # what --hardware says so that no machine is looked at

Way = Literal["gpu", "gpu in 4 bit", "processor"]


@dataclass(frozen=True)
class Demand:
    """What an app of a model asks for: conversations of `context` tokens, `concurrency` of them at once.

    `four_bit`: the app can hold the model in 4 bit on a GPU.
    """

    footprint: Footprint
    context: int
    concurrency: int = 1
    four_bit: bool = False

    @staticmethod
    def of(found: Footprint, context: int | None = None, concurrency: int = 1, *, four_bit: bool = False) -> Demand:
        """`context`: the model's longest conversation unless given."""
        return Demand(found, min(context or found.longest, found.longest), concurrency, four_bit)

    @property
    def kv(self) -> float:
        return self.footprint.kv(self.context, self.concurrency)

    @property
    def start(self) -> float:
        """GiB of main memory to start on a processor."""
        return self.footprint.start()

    @property
    def whole(self) -> float:
        """GiB of main memory once all conversations are as long as they may be."""
        return self.start + self.kv

    def gpu(self, bits: int = 16) -> float:
        """GiB of a GPU to start on it, as ftx's apps ask for it."""
        share = {16: 1.0, 4: FOUR_BIT}[bits]
        return self.footprint.weights(16) * ROOM * share + GPU_AROUND

    def gpu_whole(self, bits: int = 16) -> float:
        return max(self.gpu(bits), self.footprint.weights(bits) + self.kv + GPU_AROUND)

    def way(self, tier: Tier, *, four_bit: bool | None = None) -> Way | None:
        """Where it would run on a machine; None where it cannot start."""
        if tier.vram and self.gpu() <= tier.vram:
            return "gpu"
        if tier.vram and (self.four_bit if four_bit is None else four_bit) and self.gpu(4) <= tier.vram:
            return "gpu in 4 bit"
        # A hub that does not tell a machine's memory is not refused for it.
        return "processor" if tier.ram is None or self.start <= tier.ram else None

    def room(self, tier: Tier) -> bool:
        """Whether the longest conversations fit beside the model there."""
        match self.way(tier):
            case "gpu":
                return self.gpu_whole() <= tier.vram
            case "gpu in 4 bit":
                return self.gpu_whole(4) <= tier.vram
            case "processor":
                return tier.ram is None or self.whole <= tier.ram
        return False

    def smallest(self, lent: Lent, *, gpu: bool = False, four_bit: bool | None = None) -> Tier | None:
        """The first machine of the hub that it starts on, on its GPU where `gpu` says so."""
        for tier in lent.tiers:
            way = self.way(tier, four_bit=four_bit)
            if way is not None and not (gpu and way == "processor") and (tier.ram is not None or way != "processor"):
                return tier
        return None

    def as_event(self, lent: Sequence[Lent]) -> dict[str, Any]:
        """All figures in GiB, as JSON values."""
        found = self.footprint
        return {
            "measured": found.measured,
            "start": round(self.start, 2),
            "peak": round(found.peak / 2**30, 2),
            "kv": round(self.kv, 2),
            "context": self.context,
            "concurrency": self.concurrency,
            "weights": {str(bits): round(found.weights(bits), 2) for bits in BITS},
            "gpu": {"16": round(self.gpu(), 2), "4": round(self.gpu(4), 2)},
            "machines": [
                {"hub": one.hub, "name": tier.name, "way": self.way(tier), "room": self.room(tier)}
                for one in lent
                for tier in one.tiers
            ],
            "sentence": self.sentence(lent),
        }

    def sentence(self, lent: Sequence[Lent]) -> str:
        """For people."""
        how = "measured" if self.footprint.measured else "by estimate"
        places = []
        for one in lent:
            smallest, fast = self.smallest(one), self.smallest(one, gpu=True)
            name = smallest.name if smallest else "no machine"
            quick = f", on a GPU on {fast.name}" if fast and fast is not smallest else ""
            places.append(f"{one.hub}: it starts on {name}{quick}")
        return (
            f"an app of it needs {told(self.start)} to start ({how}){self._talk()}, on a GPU {told(self.gpu())} (by "
            f"estimate); {self._saving()}. {'; '.join(places)}"
        )

    def _talk(self) -> str:
        """Of a model that was not read it is not known."""
        if not self.footprint.kv_per_token:
            return ""
        many = "s" * (self.concurrency > 1)
        return f" and {told(self.kv)} for {self.concurrency} conversation{many} of {self.context:,} tokens"

    def _saving(self) -> str:
        sixteen, eight, four = (told(self.footprint.weights(bits)) for bits in BITS)
        return f"its weights are {sixteen} in 16 bit, {eight} in 8, {four} in 4"

    def refuse(self, lent: Lent, tier: Tier) -> None:
        """Raise OutOfMemory when it cannot start on a machine, with what to type instead."""
        if self.way(tier) is not None:
            return
        how = "measured" if self.footprint.measured else "by estimate"
        raise OutOfMemory(
            f"{tier.name} of {lent.hub} has {tier.sentence}, and the app needs {told(self.start)} to start ({how}): "
            f"it would not come up there, and nothing would say why; {self._instead(lent)} ({self._saving()})"
        )

    def _instead(self, lent: Lent) -> str:
        larger, packed = self.smallest(lent), self.smallest(lent, gpu=True, four_bit=True)
        if larger is None and packed is None:
            return f"{lent.hub} lends no machine that is large enough: take a smaller model, or one of your own"
        found = f"add --hardware '{larger.name}' ({larger.price})" if larger else "take a smaller model"
        if packed and packed is not larger and not self.four_bit:
            found += f", or a line bitsandbytes in requirements.txt and --hardware '{packed.name}' ({packed.price})"
        return found


def told(gib: float) -> str:
    """A size for people."""
    return f"{gib:.1f} GB" if gib >= 1 else f"{gib * 1024:.0f} MB"


def demand_of_app(folder: Path) -> Demand | None:
    """What the app in `folder` asks for, its model weighed; None for one that carries no model. Raises ModelError."""
    if not (folder / "model" / "config.json").is_file():
        return None
    what = weighed(folder)
    try:
        found = footprint(what, measure=estimated(what.model).settled <= UNASKED)
    except ModelError:  # its own environment may be able to load what ours cannot
        found = footprint(what, measure=False)
    return Demand.of(found, four_bit=_packs(folder))


def demand_of_listed(folder: Path, files: Mapping[str, RemoteFile]) -> Demand | None:
    """What the app in `folder` asks for, given the files of the model that it fetches; None without weights."""
    for ending in WEIGHTS:
        if size := sum(about.size for name, about in files.items() if name.endswith(ending) and "/" not in name):
            return Demand.of(estimated_of_size(size), four_bit=_packs(folder))
    return None


def _packs(folder: Path) -> bool:
    """Whether the app can hold its model in 4 bit."""
    requirements = folder / "requirements.txt"
    text = requirements.read_text("utf-8", "replace") if requirements.is_file() else ""
    return re.search(r"(?mi)^\s*bitsandbytes\b", text) is not None


def told_of(folder: Path, hub: str, artifact: Artifact | None, fetched: Demand | None = None) -> dict[str, Any] | None:
    """What an app asks for, or an app of the model `artifact` would, on that hub; None where nothing is known.

    `fetched`: that of the model which an app fetches.
    """
    lent = hardware().get(hub)
    if lent is None:
        return None
    try:
        if artifact:
            demand: Demand | None = Demand.of(footprint(weighed(folder, known=artifact), measure=False))
        else:
            demand = fetched or demand_of_app(folder)
    except ModelError:
        return None
    return demand.as_event([lent]) if demand else None


def refuse_too_small(folder: Path, hub: str, named: str | None, fetched: Demand | None = None) -> None:
    """Raise OutOfMemory for an app that cannot start on the machine `named`, by default the one that the hub gives.

    `fetched`: what it asks for with the model that it fetches.
    """
    lent = hardware().get(hub)
    if lent is None or named == ANY:
        return
    known = {tier.name: tier for tier in lent.tiers}
    tier = lent.default if named is None else known.get(named)
    demand = (fetched or demand_of_app(folder)) if tier else None
    if tier and demand:
        demand.refuse(lent, tier)
