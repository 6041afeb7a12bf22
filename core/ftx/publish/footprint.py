"""What a model takes of memory: measured by loading it in a process of its own, or worked out where that cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from ftx.artifact import Artifact, family_of, versions
from ftx.atomic import hash_text, weights_fingerprint, write_json
from ftx.checkpoint_files import Checkpoint, is_computed, read_json
from ftx.data.cache import alone, cache_root
from ftx.environments import own_variables
from ftx.errors import ModelError
from ftx.redaction import SECRET_VARIABLE

GIB = 2**30
POLL = 0.01  # seconds between two looks at the process's memory
AROUND = 0.4  # GiB of Python, torch and transformers, measured with torch 2.13 and transformers 5.23
PAGE = 0.3  # GiB of the page's own libraries beside them: gradio or streamlit
LIMITS = tuple(Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory/memory.limit_in_bytes"))
LAYOUT = 2  # to be raised when what is measured changes


@dataclass(frozen=True)
class Footprint:
    """A model in 16 bit. Bytes but for `numbers`, `packed` (those that quantisation packs) and `longest` (tokens).

    `private` is what the process held for itself at most, which no system takes back; `settled` what it held once it
    had answered, with the pages of files: weights that are mapped are such. `peak` is the most it held, with those that
    were only read through. `measured` is False where they were worked out.
    """

    numbers: int
    packed: int
    kv_per_token: int
    longest: int
    private: int
    settled: int
    peak: int
    measured: bool

    def start(self) -> float:
        """GiB of main memory that an app of it takes to start and answer a short question on a processor."""
        return max(self.private, self.settled) / GIB + PAGE

    def kv(self, context: int, concurrency: int) -> float:
        """GiB of keys and values of so many conversations of that length."""
        return self.kv_per_token * context * concurrency / GIB

    def weights(self, bits: int) -> float:
        """GiB of the weights: in 8 and 4 bit by bitsandbytes, which packs the linear layers and leaves the others."""
        per_number = {16: 2.0, 8: 1.0 + 4 / 4096, 4: (4 + 32 / 64) / 8}[bits]  # with its scales
        return (self.packed * per_number + (self.numbers - self.packed) * 2) / GIB


@dataclass(frozen=True)
class Weighed:
    """What is to be weighed: a model's folder, or an adapter's with its base."""

    folder: Path
    base: Path | None
    options: Mapping[str, Any]

    @property
    def model(self) -> Path:
        return self.base or self.folder


def weighed(path: Path, base: Path | None = None, known: Artifact | None = None) -> Weighed:
    """What lies in `path`: an app with its model, an artefact, a run, or a model's folder. Raises ModelError.

    `known`: the artefact in `path` where it was verified already, which reads all of it.
    """
    if (path / "model" / "config.json").is_file():
        return Weighed(path / "model", None, {"name": "auto"})
    artifact = known or (Artifact.find(path) if path.is_dir() else None)
    folder = artifact.folder if artifact else path
    if (folder / "adapter_config.json").is_file():
        from ftx.export.merge import adapter_base

        return Weighed(folder, _there(base or adapter_base(folder)), family_of(artifact))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{path} holds no model: neither an artefact of ftx, nor an app with one, nor a model's folder"
        )
    return Weighed(folder, None, family_of(artifact))


def _there(base: Path) -> Path:
    if not base.is_dir():
        raise ModelError(f"the base model {base} is not there; give --base FOLDER")
    if not (base / "config.json").is_file():
        raise ModelError(f"the base model {base} has no config.json; give --base FOLDER, a model's folder")
    return base


def footprint(what: Weighed, *, measure: bool = True) -> Footprint:
    """Measured once for each model and kept in the cache; worked out from its files where it does not fit here.

    With `measure` False it is only looked up. Raises ModelError for a model that cannot be loaded.
    """
    key = {
        "layout": LAYOUT,
        "weights": [weights_fingerprint(one) for one in filter(None, (what.folder, what.base))],
        "config": hash_text((what.model / "config.json").read_text("utf-8", "replace")),
        "versions": versions(),
    }
    file = cache_root() / "footprints" / f"{hash_text(json.dumps(key, sort_keys=True))}.json"
    if file.is_file():
        return Footprint(**read_json(file))
    guess = estimated(what.model)
    free = _available()
    if not measure or free is None or guess.settled > free:
        return guess
    with alone(file):
        if not file.is_file():
            write_json(file, asdict(_measured(what)))
    return Footprint(**read_json(file))


def estimated(folder: Path) -> Footprint:
    """From the config and the heads of the weights. Raises ModelError."""
    config = read_json(folder / "config.json")
    text = next((config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), dict)), config)
    try:
        heads = int(text.get("num_attention_heads", 1))
        if heads < 1:
            raise ValueError(f"num_attention_heads {heads}")
        wide = int(text.get("head_dim") or int(text["hidden_size"]) // heads)
        layers, kv_heads = int(text["num_hidden_layers"]), int(text.get("num_key_value_heads") or heads)
        vocabulary = int(text["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} does not tell the model's size: {error!r}") from None
    shapes = [one.shape for name, one in Checkpoint.of(folder).tensors.items() if not is_computed(name)]
    numbers = sum(prod(shape) for shape in shapes)
    packed = sum(prod(shape) for shape in shapes if len(shape) == 2 and vocabulary not in shape)
    held = int(numbers * 2 + AROUND * GIB)
    longest = int(text.get("max_position_embeddings") or 2048)
    return Footprint(numbers, packed, 2 * 2 * layers * kv_heads * wide, longest, held, held, held, measured=False)


def estimated_of_size(weights: int) -> Footprint:
    """From the bytes of weights in 16 bit alone; what conversations take is not known from them."""
    held = int(weights + AROUND * GIB)
    return Footprint(weights // 2, weights // 2, 0, 0, held, held, held, measured=False)


def _available() -> int | None:
    """Bytes of memory that this machine has free for another process, at most what our own container may take.

    None where the system does not tell.
    """
    found = [_status(Path("/proc/meminfo"), ("MemAvailable",)), *map(_limit, LIMITS)]
    return min(filter(None, found), default=None)


def _limit(path: Path) -> int | None:
    """What a control group may take, in bytes; None where it has no bound."""
    try:
        said = path.read_text("utf-8").strip()
    except OSError:
        return None
    return int(said) if said.isdigit() else None


def _measured(what: Weighed) -> Footprint:
    words = [str(what.folder.resolve()), str(what.base.resolve()) if what.base else "", json.dumps(dict(what.options))]
    ours = {name: value for name, value in own_variables().items() if not SECRET_VARIABLE.search(name.upper())}
    about = {**ours, "PYTHONPATH": ":".join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        with subprocess.Popen(
            [sys.executable, "-m", "ftx.publish.loaded", *words],
            env=about, stdin=subprocess.DEVNULL, stdout=said, stderr=complained,
        ) as process:  # fmt: skip
            private, peak = _watched(process)
        said.seek(0)
        complained.seek(0)
        lines = said.read().decode("utf-8", "replace").splitlines()
        if process.returncode or not lines:
            last = complained.read().decode("utf-8", "replace").strip().splitlines()[-1:]
            why = last[0] if last else f"it ended with {process.returncode}, as a process that ran out of memory does"
            raise ModelError(f"{what.folder} could not be loaded to see what it takes: {why}")
    return Footprint(**json.loads(lines[-1]), private=private, peak=peak, measured=True)


def _watched(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """The most that the process held for itself, and its peak with the pages of files, in bytes."""
    status = Path("/proc") / str(process.pid) / "status"
    private = peak = 0
    while process.poll() is None:
        private = max(private, _status(status, ("RssAnon", "RssShmem")))
        peak = max(peak, _status(status, ("VmHWM",)))
        time.sleep(POLL)
    return private, peak


def _status(path: Path, names: tuple[str, ...]) -> int:
    """The sum of these lines, which are in KiB; 0 where there are none."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:  # it has ended
        return 0
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(found[name].split()[0]) << 10 for name in names if name in found)
