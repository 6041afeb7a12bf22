"""What steps find is read late on a GPU: the same is reported, saved and refused."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from ftx import hookimpl
from ftx.errors import Interrupted, TrainingError
from ftx.run import checkpoints_in, events, losses
from ftx.train import fit as loop
from ftx.train import progress
from ftx.train.ask import Asker
from ftx.train.fit import fit
from test_train import plan_for, registry_with


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "late", lambda device: True)


def reported(folder: Path) -> list[dict[str, Any]]:
    """Steps and answers, in the order in which they were recorded, less times."""
    timed = {"time", "tokens_per_s", "eta_s"}
    kept = [event for event in events(folder) if event["event"] in ("step", "sample")]
    return [{name: value for name, value in event.items() if name not in timed} for event in kept]


def test_steps_read_late_are_reported_and_saved_the_same(
    tiny: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"train__max_steps": 7, "train__save_every": 3}
    options |= {"eval__questions": ["?"], "eval__every": 2, "eval__max_new_tokens": 2}
    fit(plan_for(tiny, rows, tmp_path / "at_once", **options))
    monkeypatch.setattr(progress, "late", lambda device: True)
    fit(plan_for(tiny, rows, tmp_path / "late", **options))
    assert reported(tmp_path / "late") == reported(tmp_path / "at_once")
    assert [p.name for p in checkpoints_in(tmp_path / "late")] == [p.name for p in checkpoints_in(tmp_path / "at_once")]


def test_the_next_step_is_queued_before_a_step_is_read(
    late: None, tiny: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued, accumulate = [0], loop.accumulate

    def counted(*given: Any) -> torch.Tensor:
        queued[0] += 1
        return accumulate(*given)

    found = []

    class _Reports:
        @hookimpl
        def ftx_step_done(self, step: int) -> None:
            found.append((step, queued[0]))

    monkeypatch.setattr(loop, "accumulate", counted)
    fit(plan_for(tiny, rows, tmp_path / "run", registry_with(_Reports()), train__max_steps=6, train__save_every=4))
    # The fourth is waited for, as its checkpoint is saved, and the last.
    assert found == [(1, 2), (2, 3), (3, 4), (4, 4), (5, 6), (6, 6)]


@pytest.mark.parametrize(("every", "kept"), [(1, "the last good checkpoint is"), (100, "no checkpoint was saved yet")])
def test_a_loss_that_is_not_finite_is_never_saved(
    every: int, kept: str, late: None, tiny: Path, rows: Path, tmp_path: Path
) -> None:
    options = {"train__lr": 1e30, "train__max_steps": 9, "train__save_every": every}
    with pytest.raises(TrainingError, match=f"are not finite; .*{kept}") as caught:
        fit(plan_for(tiny, rows, tmp_path / "run", method="full", **options))
    recorded = losses(tmp_path / "run")
    assert recorded
    assert all(loss < float("inf") for loss in recorded.values())
    assert str(caught.value).startswith(f"step {max(recorded) + 1}:")
    saved = [int(p.name.removeprefix("step-")) for p in checkpoints_in(tmp_path / "run")]
    assert saved[-1:] == ([max(recorded)] if every == 1 else [])
    assert not (tmp_path / "run" / "model").exists()


def test_a_stop_request_is_heard(late: None, tiny: Path, rows: Path, tmp_path: Path) -> None:
    class _Signal:
        @hookimpl
        def ftx_step_done(self, step: int) -> None:
            if step == 2:
                signal.raise_signal(signal.SIGTERM)

    options = {"train__max_steps": 6, "train__save_every": 100}
    with pytest.raises(Interrupted, match="after step 3 of 6"):
        fit(plan_for(tiny, rows, tmp_path / "run", registry_with(_Signal()), **options))
    assert [p.name for p in checkpoints_in(tmp_path / "run")] == ["step-00000003"]
    assert list(losses(tmp_path / "run")) == [1, 2, 3]
    fit(plan_for(tiny, rows, tmp_path / "whole", **options))
    fit(plan_for(tiny, rows, tmp_path / "run", **options), resume="auto")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.parametrize(("is_late", "heard"), [(False, 2), (True, 3)])
def test_a_stop_of_another_process_is_heard(is_late: bool, heard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one is asked to stop in step 2."""
    monkeypatch.setattr(progress, "late", lambda device: is_late)
    others = iter([0.0, 1.0])
    accelerator: Any = SimpleNamespace(
        device=torch.device("cpu"), reduce=lambda both, how: both + torch.tensor([0.0, next(others, 0.0)])
    )
    run: Any = SimpleNamespace(main=False)
    ours = progress.Progress(run, accelerator, 0)
    stops = []
    for step in range(1, 5):
        ours.take(step, torch.tensor(1.0), torch.tensor(1.0), 1e-3, 9, stop=False)
        ours.report(all_steps=False)
        stops.append(ours.stopping)
    assert stops.index(True) + 1 == heard


def test_a_stop_that_is_read_where_a_checkpoint_is_due_ends_the_run_there(
    late: None, tiny: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process is asked to stop in step 4, for which this one stands: it hears of it by what it reads."""
    take = progress.Progress.take

    def asked(self: Any, step: int, *found: Any, stop: bool) -> None:
        take(self, step, *found, stop=step == 4)

    monkeypatch.setattr(progress.Progress, "take", asked)
    with pytest.raises(Interrupted, match="after step 4 of 9"):
        fit(plan_for(tiny, rows, tmp_path / "run", train__max_steps=9, train__save_every=4))
    assert [p.name for p in checkpoints_in(tmp_path / "run")] == ["step-00000004"]


@pytest.mark.parametrize("main", [True, False])
def test_questions_are_due_alike_in_all_processes(main: bool, tiny: Path, rows: Path, tmp_path: Path) -> None:
    """Only the main one asks, but all wait for what they have queued."""
    options: dict[str, Any] = {"eval__questions": ["?"], "eval__every": 2, "train__max_steps": 5}
    run: Any = SimpleNamespace(plan=plan_for(tiny, rows, tmp_path / "run", **options), main=main)
    accelerator: Any = SimpleNamespace(unwrap_model=lambda model: model, distributed_type=SimpleNamespace(value="NO"))
    path: Any = SimpleNamespace(embedding=None)
    asker = Asker(run, cast("Any", None), path, accelerator)
    assert [step for step in range(1, 6) if asker.due(step)] == [2, 4, 5]


def test_moments_in_8_bits_move_as_ever_and_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.optim import AdamW8bit, optimizer

    from ftx.fast.queued_adam import QueuedAdamW8bit

    def moved(kind: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(size)) for size in ((64, 128), (16,), (300, 40))]
        made = kind(parameters, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
        for step in range(4):
            for parameter in parameters[step == 2 :]:
                parameter.grad = torch.randn_like(parameter)
            made.param_groups[0]["lr"] = 1e-2 / (step + 1)
            made.step()
            made.zero_grad()
        assert made.state[parameters[0]]["state1"].dtype == torch.uint8
        return [parameter.data for parameter in parameters]

    expected = moved(AdamW8bit)
    monkeypatch.setattr(optimizer, "sync_gpu", None)
    assert all(map(torch.equal, moved(QueuedAdamW8bit), expected))
