"""Questions while training: asked when they are due, kept, and without a trace in what is learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftx.errors import RecipeError
from ftx.plugins import load_registry
from ftx.run import events, losses, samples
from ftx.talk import Sampling, open_talk
from ftx.train.fit import fit
from ftx_quickstart.first_run import BASE
from test_train import _KillAfter, _Killed, _weights, plan_for, registry_with

ASKED = {"questions": ["What is 1?", "你好"], "every": 2, "max_new_tokens": 6}


@pytest.mark.parametrize(
    "options",
    [
        {"method": {"name": "lora", "dropout": 0.1}},
        {"method": {"name": "qlora"}},
        {"method": {"name": "qlora"}, "train__adapters": "plain", "train__attention": "sdpa"},
        {"method": {"name": "qlora", "bits": 8}},
        {"method": {"name": "qlora", "quantize_head": True}},
        {"method": {"name": "qlora", "bits": 8, "quantize_head": True}},
        {"method": {"name": "qlora", "bits": 8}, "train__adapters": "plain", "train__attention": "sdpa"},
        {"method": {"name": "full"}, "train__memory": "balanced"},
    ],
)
def test_training_is_the_same_to_the_bit_with_questions_and_without(
    options: dict[str, Any], tiny: Path, rows: Path, tmp_path: Path
) -> None:
    options = {**options, "train__max_steps": 5, "train__save_every": 3}
    silent = fit(plan_for(tiny, rows, tmp_path / "silent", **options))
    asked = fit(plan_for(tiny, rows, tmp_path / "asked", eval=ASKED, **options))
    assert losses(tmp_path / "asked") == losses(tmp_path / "silent")
    assert _weights(asked) == _weights(silent)
    assert [(e["step"], e["number"]) for e in samples(tmp_path / "asked")] == [
        (step, number) for step in (0, 2, 4, 5) for number in (0, 1)
    ]
    assert samples(tmp_path / "silent") == []


def test_the_last_answers_are_those_of_chat(tmp_path: Path, rows: Path) -> None:
    asked = {**ASKED, "system": "Be kind.", "max_new_tokens": 24}
    artifact = fit(plan_for(BASE, rows, tmp_path / "run", train__max_steps=3, train__lr=1e-3, eval=asked))
    talk = open_talk(artifact.folder, load_registry("none"))
    talk.system = "Be kind."
    last = [e for e in samples(tmp_path / "run") if e["step"] == 3]
    assert len(last) == 2
    for event in last:
        talk.reset()
        answer = talk.ask(event["question"], Sampling(max_new_tokens=24))
        assert (event["answer"], event["stopped"]) == (answer.text, answer.stopped)
    base = open_talk(BASE, load_registry("none"))
    base.system = "Be kind."
    assert samples(tmp_path / "run")[0]["answer"] == base.ask("What is 1?", Sampling(max_new_tokens=24)).text


def test_an_answer_is_that_of_the_step_just_taken(tiny: Path, rows: Path, tmp_path: Path) -> None:
    """A step so large that an adapter one step older would answer as the base does."""
    options = {"train__max_steps": 1, "train__lr": 0.5, "eval": {**ASKED, "questions": ["What is 1?"]}}
    artifact = fit(plan_for(tiny, rows, tmp_path / "run", **options))
    before, after = (e["answer"] for e in samples(tmp_path / "run"))
    talk = open_talk(artifact.folder, load_registry("none"))
    assert after == talk.ask("What is 1?", Sampling(max_new_tokens=6)).text != before


def test_a_resumed_run_asks_on_and_each_answer_counts_once(tiny: Path, rows: Path, tmp_path: Path) -> None:
    options = {"train__max_steps": 6, "train__save_every": 3, "eval": ASKED}
    whole = tmp_path / "whole"
    fit(plan_for(tiny, rows, whole, **options))
    out = tmp_path / "killed"
    with pytest.raises(_Killed):
        fit(plan_for(tiny, rows, out, registry_with(_KillAfter(5)), **options))
    fit(plan_for(tiny, rows, out, **options), resume="auto")
    told = [{key: value for key, value in e.items() if key != "time"} for e in samples(out)]
    assert told == [{key: value for key, value in e.items() if key != "time"} for e in samples(whole)]
    assert sum(e["event"] == "sample" and e["step"] == 4 for e in events(out)) == 4


def test_every_defaults_to_the_checkpoints_and_one_question_may_stand_alone(
    ftx: Any, tiny: Path, rows: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {tiny}\ndata: {rows}\nout: run\neval: {{questions: 'What is 1?', max_new_tokens: 4}}\n"
        "train: {max_steps: 3, save_every: 2, global_batch_size: 4}\n",
        "utf-8",
    )
    result = ftx("train", recipe, "--json")
    assert result.code == 0, result.err
    assert [e["step"] for e in result.events if e["event"] == "sample"] == [0, 2, 3]
    said = ftx("train", recipe, "--out", "again")
    assert "What is 1? -> " in said.err


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"questions": []}, "eval.questions"),
        ({"questions": ["a"], "evry": 2}, "eval.evry.*unknown key; did you mean 'every'"),
        ({"questions": ["a"], "every": 0}, "eval.every"),
        ({"questions": ["a\ud800"]}, "eval.questions: the text holds half a character"),
        ({"questions": ["a"], "images": ["x.png"]}, "eval.images: this model reads text alone"),
        ({"questions": ["a", "b", "c"], "images": ["x.png", "y.png"]}, "2 pictures for 3 questions"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(
    asked: dict[str, Any], sentence: str, tiny: Path, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=sentence):
        plan_for(tiny, rows, tmp_path / "run", eval=asked)
    assert not (tmp_path / "run").exists()


def test_a_model_whose_words_are_in_host_memory_cannot_be_asked(tiny: Path, rows: Path, tmp_path: Path) -> None:
    import torch
    from accelerate import Accelerator

    from ftx.console import Console
    from ftx.run import Run
    from ftx.train.ask import Asker
    from ftx.train.path import FastPath

    plan = plan_for(tiny, rows, tmp_path / "run", eval=ASKED)
    held = FastPath(torch.float32, embedding=torch.zeros(1))
    run = Run(tmp_path / "run", plan, Console(quiet=True))
    with pytest.raises(RecipeError, match=r"train\.memory small keeps words' vectors in host memory"):
        Asker(run, torch.nn.Linear(1, 1), held, Accelerator(cpu=True))  # type: ignore[arg-type]
