"""Where the model fits: the GPU, the GPU in 4 bit, or the processor, and a sentence that says why."""

from __future__ import annotations

import importlib.util
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import torch

GIB = 2**30
ROOM = 1.2  # beside the weights: the conversation's keys and values, and what is computed on the way
FOUR_BIT = 0.35  # of 16 bit: four bits a weight, the scales, and the embeddings that stay as they are


@dataclass(frozen=True)
class Place:
    """`way` is "gpu", "gpu-4bit" or "cpu"; `note` is for the people at the page, empty when all is as wished."""

    way: str
    note: str = ""


def places(numbers: int, free: int | None, four_bit: bool) -> list:
    """The places to try, best first, for a model of so many numbers and `free` bytes of GPU memory (None: no GPU)."""
    if free is None:
        return [Place("cpu")]
    needed = int(numbers * 2 * ROOM)
    short = f"The GPU has {free / GIB:.1f} GiB free and the model wants {needed / GIB:.1f} GiB"
    found = [Place("gpu")] if free >= needed else []
    if four_bit and free >= needed * FOUR_BIT:
        found.append(Place("gpu-4bit", short + ": it runs in 4 bit, a little less exact."))
    return [*found, Place("cpu", short + ": it runs on the processor, slowly.")]


def gpu_free() -> int | None:
    """Free bytes of GPU memory, None without a GPU."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None


def has_four_bit() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


def main_memory() -> int:
    """Bytes of main memory that are free to this process, as far as the system tells."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdigit():
        found.append(int(limit.read_text()))
    return min(found) if found else 2**62


def count_numbers(folder: Path) -> int:
    """How many numbers the folder's safetensors hold, from their headers."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                numbers = 1
                for side in tensor["shape"]:
                    numbers *= side
                total += numbers
    return total
