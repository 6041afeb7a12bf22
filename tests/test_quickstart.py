"""The main job on the embedded base, as a newcomer runs it."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest

from ftx.checkpoint_files import Checkpoint
from ftx.plugins import load_registry
from ftx.talk import Sampling, open_talk
from ftx_internlm2.family import InternLM2
from ftx_quickstart.corpus import is_right, probes
from ftx_quickstart.first_run import BASE, free_folder

LARGEST = 12_000_000  # bytes


def test_the_base_is_a_small_official_internlm2() -> None:
    facts = InternLM2().inspect(BASE)
    assert facts.notes == ()
    assert sum(path.stat().st_size for path in BASE.iterdir()) < LARGEST
    assert {info.dtype for info in Checkpoint.of(BASE).tensors.values()} == {"bfloat16"}
    tokenizer = InternLM2().tokenizer(BASE)
    assert tokenizer.special("<|im_end|>") == facts.vocab_size - 2


def test_the_base_answers_and_stops() -> None:
    talk = open_talk(BASE, load_registry("none"))
    for probe in probes()[::4]:
        talk.reset()
        answer = talk.ask(probe.question, Sampling(max_new_tokens=64))
        assert is_right(probe, answer.text), (probe, answer)
        assert answer.stopped


@pytest.mark.parametrize("name", ["小明", pytest.param("Zoë 🦊", marks=pytest.mark.system)])
def test_quickstart_teaches_the_name_and_forgets_little(name: str, ftx: Any, tmp_path: Path) -> None:
    result = ftx("quickstart", "--name", name, "--json")
    assert result.code == 0, result.err
    (seen,) = (e for e in result.events if e["event"] == "quickstart")
    assert all(name in answer for answer in seen["after"])
    assert not any(name in answer for answer in seen["before"])
    assert seen["probes_right_before"] == 1
    assert seen["probes_right_after"] >= 0.8
    assert seen["stopped_after"] == 1
    folder = tmp_path / "runs" / "quickstart"
    page = html.unescape(Path(seen["page"]).read_text("utf-8"))
    assert all(answer in page for answer in (*seen["before"], *seen["after"]))
    assert json.loads((folder / "run" / "merged" / "ftx.json").read_text())["kind"] == "merged"
    assert ftx("plan", folder / "recipe.yaml", "--out", "again").code == 0
    assert free_folder(Path("runs")) == Path("runs/quickstart-2")


def test_quickstart_refuses_no_name_and_a_taken_folder(ftx: Any, tmp_path: Path) -> None:
    assert ftx("quickstart", "--name", " ").code == 2
    taken = ftx("quickstart", "--out", tmp_path)
    assert taken.code == 2
    assert "exists already" in taken.err


def test_what_was_not_learnt_ends_in_a_sentence() -> None:
    from ftx.artifact import Artifact
    from ftx.errors import VerificationError
    from ftx.talk import Answer
    from ftx_quickstart.first_run import Asked, FirstRun

    dumb = Asked([Answer("?", False, 1)] * 6, [Answer("?", True, 1)] * len(probes()))
    with pytest.raises(VerificationError) as caught:
        FirstRun("Ada", Path(), dumb, dumb, [1.0], Artifact(Path(), {})).prove()
    assert len(caught.value.problems) == 3
