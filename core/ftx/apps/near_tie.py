"""Whether an app that answers otherwise chose between words that to the model were as good.

An app on a GPU computes in 16 bit, and what is expected of it may have been computed in 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.export.forms import Form, Said, load
from ftx.export.probes import Probe
from ftx.export.verify import Trained, compare, tolerance_of
from ftx.plan import find_family, generation_eos

if TYPE_CHECKING:
    from ftx.plugins import Registry


@dataclass
class _Told(Form):
    """An answer that was given. `stopped`: how it is taken to have ended, which an app does not tell."""

    name: str
    text: str
    stopped: bool

    def say(self, probe: Probe, max_new_tokens: int) -> Said:
        return Said(self.text, self.stopped)


def as_good(
    folder: Path, probe: dict[str, Any], said: dict[str, Any], expected: str, most: int, registry: Registry
) -> bool:
    """Whether `ftx verify` passes both answers, the app's and the expected one, by the model in the app's folder."""
    model = folder / "model"
    if not model.is_dir():
        return False
    image = str(folder / probe["image"]) if probe["image"] else None
    asked = [Probe((said["prompt"],), probe["system"], image)]
    family = find_family({"name": "auto"}, model, registry)
    form = load("ftx", family, model, folder)
    trained = Trained.of(form, generation_eos(model), asked, most, tolerance_of(family, model))
    stopped = trained.said[0].stopped
    return all(compare(trained, _Told("app", text, stopped)).passed for text in (expected, said["answer"]))
