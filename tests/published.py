"""Artefacts to publish: real ones of the tiny model, sealed, with a receipt of their verification."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from conftest import TINY, write_rows
from ftx.artifact import Artifact
from ftx.console import Console
from ftx.export.merge import merge
from ftx.export.receipt import Probed, Receipt, seal_of, write_receipt
from ftx.train.fit import fit
from ftx_internlm2.family import InternLM2
from test_train import plan_for

BASE = "ann/tiny-base"
CARD = "---\nlicense: apache-2.0\n---\n# Tiny\n"


def verified(folder: Path, *, passed: bool = True) -> Path:
    """Write what a verification of the folder, as it is sealed, would leave."""
    problems = [] if passed else ["the merged form answers otherwise"]
    forms = [{"form": "unmerged", "passed": passed, "problems": problems, "max_logit_difference": None}]
    probe = Probed("What is 1?", None, None, [1, 2], "It is 1. ", True)
    write_receipt(folder, Receipt(seal_of(folder), passed, "2026-11-21T00:00:00Z", 16, [probe], forms))
    return folder


@pytest.fixture(scope="session", name="made")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/, run/adapter and run/merged, both verified."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(TINY, folder / "base")
    (folder / "base" / "README.md").write_text(CARD, "utf-8")
    fit(plan_for(folder / "base", write_rows(folder / "rows.jsonl", 4), folder / "run", train__max_steps=1))
    adapter = Artifact.open(folder / "run" / "adapter")
    merge(adapter, InternLM2(), adapter.base, folder / "run" / "merged", Console(quiet=True))
    verified(folder / "run" / "adapter")
    verified(folder / "run" / "merged")
    return folder


@pytest.fixture(name="adapter")
def adapter_copy(made: Path, tmp_path: Path) -> Path:
    """A copy of the adapter, to be spoilt."""
    return Path(shutil.copytree(made / "run" / "adapter", tmp_path / "run" / "adapter"))


@pytest.fixture(name="merged")
def merged_copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "run" / "merged", tmp_path / "run" / "merged"))
