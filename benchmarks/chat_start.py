"""From the command to the answer: `ftx chat --once` beside transformers alone, new processes, one after the other.

    OMP_NUM_THREADS=1 python benchmarks/chat_start.py

The model is the quickstart's base; transformers reads it as the Llama that `ftx export --layout transformers` writes.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "plugins" / "ftx_quickstart" / "base"
QUESTION = "What is the capital of France?"
ALONE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, question = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(folder)
asked = [{"role": "user", "content": question}]
said = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
out = model.generate(**said, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(out[0, said["input_ids"].shape[1]:], skip_special_tokens=True))
"""
ROUNDS = 5


def seconds(command: list[str]) -> tuple[float, str]:
    """How long the command took, and what it said."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, done.stdout.strip()


def main() -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "core"), str(ROOT / "plugins")])
    ftx = [sys.executable, "-m", "ftx"]
    with tempfile.TemporaryDirectory() as folder:
        llama = Path(folder) / "llama"
        seconds([*ftx, "export", str(BASE), "--layout", "transformers", "--out", str(llama)])
        ways = {
            "transformers alone": [sys.executable, "-c", ALONE, str(llama), QUESTION],
            "ftx chat": [*ftx, "chat", str(BASE), "--once", QUESTION, "--max-new-tokens", "64"],
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        said = {}
        for _ in range(ROUNDS):
            for name, command in ways.items():
                one, said[name] = seconds(command)
                took[name].append(one)
    packages = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}")
    print("| way | median s | best s | answer |")
    print("|---|--:|--:|---|")
    for name, times in took.items():
        print(f"| {name} | {statistics.median(times):.2f} | {min(times):.2f} | {said[name]} |")


if __name__ == "__main__":
    main()
