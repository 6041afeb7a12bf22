"""Time of `ftx --help`, against bare Python and against importing torch, best and median of 15.

python benchmarks/help_time.py
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time

from ftx.artifact import versions

COMMANDS = {
    "bare python": [sys.executable, "-c", "pass"],
    "ftx --help": [sys.executable, "-m", "ftx", "--help"],
    "ftx plugins": [sys.executable, "-m", "ftx", "plugins"],
    "import torch": [sys.executable, "-c", "import torch"],
}
REPEATS = 15


def seconds(command: list[str]) -> list[float]:
    """Wall times of whole processes, after one run to warm the disk."""
    subprocess.run(command, capture_output=True, check=True)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    print(platform.platform(), platform.processor() or platform.machine(), versions())
    print(f"{'command':<14}{'best s':>8}{'median s':>10}")
    for name, command in COMMANDS.items():
        times = seconds(command)
        print(f"{name:<14}{min(times):>8.3f}{statistics.median(times):>10.3f}")


if __name__ == "__main__":
    main()
