"""A project as its user has it: rows, a recipe and a base in a folder, and a program `ftx` that is this checkout's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import TINY, write_rows
from ftx.run import EVENTS, losses
from hub_servers import git
from lfs_server import LfsHost

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / ".venv" / "ci-tools"
IMAGE = "registry.example.org/ftx@sha256:" + "5d" * 32
RECIPE = """\
family: internlm2
model: base
data:
  sets: [{path: data/rows.jsonl, format: openai}]
  max_rejected: 1
method: {name: lora, rank: 4}
train: {max_steps: %d, lr: 5e-3, global_batch_size: 4, save_every: 20}
eval: {questions: ["What is 1?"], max_new_tokens: 8, every: 1000}
"""
TOKEN = "glpat-5d0a91cc77e3"
REPO = "ann/cats"
CARD = "---\nlicense: apache-2.0\n---\n# Tiny\n"


def project(folder: Path, steps: int = 6) -> Path:
    """Make the project in `folder`."""
    (folder / "data").mkdir(parents=True)
    write_rows(folder / "data" / "rows.jsonl", 12)
    shutil.copytree(TINY, folder / "base")
    (folder / "base" / "README.md").write_text(CARD, "utf-8")
    (folder / "recipe.yaml").write_text(RECIPE % steps, "utf-8")
    (folder / "questions.txt").write_text("What is 2?\n", "utf-8")
    return folder


@contextmanager
def git_host(folder: Path) -> Iterator[LfsHost]:
    """A git host with Git LFS that has an empty repository `REPO` of ann's."""
    server = LfsHost(folder)
    server.users["ann"] = (TOKEN, True)
    server.new(REPO)
    yield server
    server.stop()


def program(folder: Path) -> Path:
    """A folder for PATH with the program `ftx`."""
    folder.mkdir()
    path = os.pathsep.join(place for place in sys.path if place)
    (folder / "ftx").write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} -m ftx "$@"\n', "utf-8")
    (folder / "ftx").chmod(0o755)
    return folder


def committed(folder: Path) -> str:
    """Commit all of the folder; the commit."""
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / ".gitignore").write_text("runs/\n.cache/\n.gitlab-ci-local/\n", "utf-8")
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=Ann", "-c", "user.email=ann@example.org", "commit", "--quiet", "--message=one")
    return git(folder, "rev-parse", "HEAD").strip()


def node_tool(name: str) -> list[str]:
    """The command of a tool that scripts/ci_tools installed."""
    programs = TOOLS / "node_modules" / ".bin"
    return [str(programs / "node"), str(programs / name)]


def begin(folder: Path, step: str, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """A step of the project's pipeline, in a process of its own."""
    return subprocess.Popen(
        ["sh", "ci/ftx.sh", step],
        cwd=folder,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def await_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until the run has logged that step. Fails when the process ends before."""
    while not (run / EVENTS).exists() or step not in losses(run):
        if process.poll() is not None:
            pytest.fail(f"it ended before step {step}: {process.communicate()[0]}")
        time.sleep(0.05)
