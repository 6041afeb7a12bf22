"""The loop: every method learns, micro-batching changes nothing, a resume is bit-exact, nothing is half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import write_rows
from ftx import hookimpl
from ftx.artifact import Artifact
from ftx.errors import FtxError, Interrupted, RecipeError, StorageError, TrainingError
from ftx.plan import Plan, make_plan
from ftx.plugins import Origin, Registry, load_registry
from ftx.recipe import Written
from ftx.run import checkpoints_in, events, losses
from ftx.train.fit import ALLOCATOR, fit


def plan_for(model: Path, data: Path, out: Path, registry: Registry | None = None, **options: Any) -> Plan:
    """A plan with dotted options given as `train__lr=...`."""
    written = Written()
    written.put("model", str(model), "test")
    written.put("data.sets", [str(data)], "test")
    written.put("out", str(out), "test")
    for name, value in {"train__lr": 5e-3, "train__global_batch_size": 4, **options}.items():
        written.put(name.replace("__", "."), value, "test")
    return make_plan(written, registry or load_registry("none"))


class _Killed(Exception):
    """Stands for the process dying: nothing of ftx catches it."""


class _KillAfter:
    """A plugin that ends the run right after step `step` was logged."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hookimpl
    def ftx_step_done(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.step:
            raise _Killed


def registry_with(plugin: object) -> Registry:
    registry = load_registry("none")
    registry.add(plugin, Origin("test", "test", "0"))
    return registry


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_every_method_learns_and_seals_a_whole_result(method: str, tiny: Path, rows: Path, tmp_path: Path) -> None:
    artifact = fit(plan_for(tiny, rows, tmp_path / "run", method=method, train__epochs=10.0))
    curve = list(losses(tmp_path / "run").values())
    assert curve[-1] < 0.7 * curve[0]
    assert artifact.kind == ("model" if method == "full" else "adapter")
    assert artifact.manifest["metrics"]["steps"] == len(curve) == 30
    assert artifact.manifest["base"]["path"] == str(tiny.resolve())
    weights = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert {weights, "chat_template.jinja", "generation_config.json"} <= set(artifact.manifest["files"])


def test_full_keeps_layout_config_and_dtype(tiny: Path, rows: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    artifact = fit(plan_for(tiny, rows, tmp_path / "run", method="full", train__max_steps=1))
    with (
        safe_open(tiny / "model.safetensors", "pt") as before,
        safe_open(artifact.folder / "model.safetensors", "pt") as after,
    ):
        assert set(before.keys()) == set(after.keys())
        for name in before.keys():  # noqa: SIM118  (a safetensors handle, not a dict)
            assert before.get_tensor(name).shape == after.get_tensor(name).shape
            assert before.get_tensor(name).dtype == after.get_tensor(name).dtype
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        assert (artifact.folder / name).read_bytes() == (tiny / name).read_bytes()


def test_lora_tunes_the_decoder_and_not_the_head(tiny: Path, rows: Path, tmp_path: Path) -> None:
    artifact = fit(plan_for(tiny, rows, tmp_path / "run", train__max_steps=1))
    config = json.loads((artifact.folder / "adapter_config.json").read_text())
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(config["target_modules"]) == linear


@pytest.mark.parametrize("method", ["lora", "full"])
def test_loss_does_not_depend_on_micro_batching(method: str, tiny: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 19)
    curves = []
    for micro in (1, 2, 8):
        out = tmp_path / f"run{micro}"
        options = {"train__global_batch_size": 8, "train__micro_batch_size": micro, "train__max_steps": 6}
        fit(plan_for(tiny, data, out, method=method, **options))
        curves.append(list(losses(out).values()))
    assert len(curves[0]) == 6
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], abs=1e-6, rel=0)


def _weights(artifact: Artifact) -> dict[str, bytes]:
    return {name: (artifact.folder / name).read_bytes() for name in artifact.manifest["files"] if "safetensors" in name}


@pytest.mark.parametrize(
    "method",
    [{"name": "lora", "dropout": 0.1}, {"name": "full"}, {"name": "qlora"}, {"name": "qlora", "bits": 8}],
)
def test_resume_after_a_kill_between_any_two_steps_is_bit_exact(
    method: dict[str, Any], tiny: Path, rows: Path, tmp_path: Path
) -> None:
    options = {"method": method, "train__max_steps": 5, "train__save_every": 1, "train__keep_checkpoints": 1}
    whole = fit(plan_for(tiny, rows, tmp_path / "whole", **options))
    expected = losses(tmp_path / "whole")
    for step in range(2, 6):
        out = tmp_path / f"killed{step}"
        with pytest.raises(_Killed):
            fit(plan_for(tiny, rows, out, registry_with(_KillAfter(step)), **options))
        resumed = fit(plan_for(tiny, rows, out, **options), resume="auto")
        assert losses(out) == expected
        assert _weights(resumed) == _weights(whole)
        shutil.rmtree(out)


def test_resume_takes_a_path_and_refuses_another_plan(tiny: Path, rows: Path, tmp_path: Path) -> None:
    options = {"train__max_steps": 4, "train__save_every": 2}
    fit(plan_for(tiny, rows, tmp_path / "run", **options))
    newest = checkpoints_in(tmp_path / "run")[-1]
    with pytest.raises(RecipeError, match="seed was 42"):
        fit(plan_for(tiny, rows, tmp_path / "run", train__seed=1, **options), resume=str(newest))
    again = fit(plan_for(tiny, rows, tmp_path / "run", **options), resume=str(newest))
    assert again.folder == tmp_path / "run" / "adapter"
    with pytest.raises(RecipeError, match="no checkpoint"):
        fit(plan_for(tiny, rows, tmp_path / "new", **options), resume="auto")
    with pytest.raises(RecipeError, match=f"is not of the run in {tmp_path / 'new'}; give --out {tmp_path / 'run'}"):
        fit(plan_for(tiny, rows, tmp_path / "new", **options), resume=str(newest))
    with pytest.raises(RecipeError, match="is no checkpoint"):
        fit(plan_for(tiny, rows, tmp_path / "run", **options), resume=str(tmp_path))


@pytest.mark.parametrize(
    ("file", "left"),
    [
        ("optimizer.safetensors", 100),
        ("weights/adapter_model.safetensors", 100),
        ("state.json", 9),
        ("state.json", None),
    ],
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_will_do(
    file: str, left: int | None, tiny: Path, rows: Path, tmp_path: Path
) -> None:
    options = {"train__max_steps": 5, "train__save_every": 2}
    fit(plan_for(tiny, rows, tmp_path / "run", **options))
    shutil.rmtree(tmp_path / "run" / "adapter")
    older, newest = checkpoints_in(tmp_path / "run")
    if left is None:
        (newest / file).unlink()
    else:
        os.truncate(newest / file, left)
    with pytest.raises(RecipeError, match=f"^--resume: {newest}.*; take --resume {older}, the one before it$"):
        fit(plan_for(tiny, rows, tmp_path / "run", **options), resume="auto")
    fit(plan_for(tiny, rows, tmp_path / "run", **options), resume=str(older))


def test_two_runs_never_write_into_one_folder(tiny: Path, rows: Path, tmp_path: Path) -> None:
    """A second one, fresh or resumed, is refused while the first lives, and a folder that is not there is not made."""
    options = {"train__max_steps": 4, "train__save_every": 1}
    refused: list[RecipeError] = []

    class _Second:
        @hookimpl
        def ftx_step_done(self, step: int) -> None:
            if step == 3:
                for resume in (None, "auto"):
                    with pytest.raises(RecipeError, match="another run is writing to") as caught:
                        fit(plan_for(tiny, rows, tmp_path / "run", **options), resume=resume)
                    refused.append(caught.value)

    fit(plan_for(tiny, rows, tmp_path / "run", registry_with(_Second()), **options))
    assert len(refused) == 2
    assert list(losses(tmp_path / "run")) == [1, 2, 3, 4]
    with pytest.raises(RecipeError, match="holds no checkpoint"):
        fit(plan_for(tiny, rows, tmp_path / "none", **options), resume="auto")
    assert not (tmp_path / "none").exists()


def test_only_the_newest_checkpoints_are_kept(tiny: Path, rows: Path, tmp_path: Path) -> None:
    fit(plan_for(tiny, rows, tmp_path / "run", train__max_steps=6, train__save_every=1, train__keep_checkpoints=2))
    assert [p.name for p in checkpoints_in(tmp_path / "run")] == ["step-00000004", "step-00000005"]


def test_an_old_checkpoint_that_cannot_be_removed_is_told(
    tiny: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing = shutil.rmtree

    def busy(path: Path, **more: bool) -> None:  # as where it is a mount point
        if Path(path).name.startswith("step-"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        removing(path, **more)

    monkeypatch.setattr(shutil, "rmtree", busy)
    with pytest.raises(StorageError, match="step-00000001 could not be removed: Device or resource busy"):
        fit(plan_for(tiny, rows, tmp_path / "run", train__max_steps=4, train__save_every=1, train__keep_checkpoints=1))


def test_a_kill_during_the_first_checkpoint_leaves_the_folder_free(
    ftx: Any, tiny: Path, rows: Path, tmp_path: Path
) -> None:
    flags = ["--model", tiny, "--data", rows, "--out", tmp_path / "run", "--max-steps", 1]
    assert ftx("train", *flags).code == 0
    for path in (tmp_path / "run").iterdir():
        if path.name not in ("plan.json", "events.jsonl", "checkpoints"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    left = tmp_path / "run" / "checkpoints" / ".step-00000001.x1y2"
    left.mkdir(parents=True)
    (left / "optimizer.safetensors").write_bytes(b"x")
    resumed = ftx("train", *flags, "--resume", "auto")
    assert (resumed.code, "holds no checkpoint; leave --resume out" in resumed.err) == (2, True)
    again = ftx("train", *flags)
    assert again.code == 0, again.err
    assert not left.exists()


def test_an_output_folder_with_another_run_is_refused(ftx: Any, tiny: Path, rows: Path, tmp_path: Path) -> None:
    flags = ["--model", tiny, "--data", rows, "--out", tmp_path / "run", "--max-steps", 1]
    assert ftx("train", *flags).code == 0
    before = sorted(tmp_path.rglob("*"))
    second = ftx("train", *flags)
    assert second.code == 2
    assert "holds another run; give another --out" in second.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_loss_that_is_not_finite_is_refused_before_the_step(tiny: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite") as caught:
        fit(plan_for(tiny, rows, tmp_path / "run", method="full", train__lr=1e30, train__max_steps=9))
    assert caught.value.exit_code == 9
    recorded = losses(tmp_path / "run")
    assert recorded
    assert all(loss < float("inf") for loss in recorded.values())
    assert not (tmp_path / "run" / "model").exists()


def test_warm_up_and_decay_leave_no_step_without_effect() -> None:
    from ftx.train.schedule import rate

    for steps in (1, 2, 3, 34, 66, 1000):
        for ratio in (0.0, 0.03, 0.5):
            warmup = min(max(1, round(ratio * steps)), steps - 1) if ratio else 0
            rates = [rate(step, steps, warmup) for step in range(steps)]
            assert min(rates) > 0
            assert max(rates) == 1.0
            assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
            assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_every_row_is_seen_once_an_epoch() -> None:
    from ftx.data.schedule import batch_rows
    from ftx.train.schedule import micro_batches

    seen = [batch_rows(step, 10, 4, seed=1) for step in range(6)]
    assert sorted(chain(*seen[:3])) == sorted(chain(*seen[3:])) == list(range(10))
    assert seen[:3] != seen[3:]
    parts = [micro_batches(list(range(7)), 2, rank, 3) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1
    assert sorted(i for part in parts for micro in part for i in micro) == list(range(7))


def test_events_tell_the_whole_run(tiny: Path, rows: Path, tmp_path: Path) -> None:
    fit(plan_for(tiny, rows, tmp_path / "run", train__max_steps=3))
    told = events(tmp_path / "run")
    assert [e["event"] for e in told] == ["started", "step", "step", "step", "finished"]
    assert {"loss", "grad_norm", "lr", "tokens_per_s", "eta_s", "epoch"} <= set(told[1])


def test_the_loss_equals_transformers_own(tiny: Path, tmp_path: Path) -> None:
    """One row, one step: our summed and divided loss is the mean that transformers computes."""
    from ftx.data.collate import collate

    plan = plan_for(tiny, write_rows(tmp_path / "one.jsonl", 1), tmp_path / "run", train__max_steps=1)
    fit(plan)
    model = plan.family.load(tiny, dtype=torch.float32, device="cpu", attention="sdpa")
    batch = collate([plan.feed.samples(i) for i in range(len(plan.feed))], plan.tokenizer.pad_id)
    assert losses(tmp_path / "run")[1] == pytest.approx(model(**batch).loss.item(), abs=1e-6)


def test_a_stop_request_saves_and_says_how_to_go_on(tiny: Path, rows: Path, tmp_path: Path) -> None:
    import signal

    class _Signal:
        @hookimpl
        def ftx_step_done(self, step: int) -> None:
            if step == 2:
                signal.raise_signal(signal.SIGTERM)

    options = {"train__max_steps": 5, "train__save_every": 100}
    with pytest.raises(Interrupted, match="--resume auto") as caught:
        fit(plan_for(tiny, rows, tmp_path / "run", registry_with(_Signal()), **options))
    assert caught.value.exit_code == 6
    assert [p.name for p in checkpoints_in(tmp_path / "run")] == ["step-00000002"]
    fit(plan_for(tiny, rows, tmp_path / "whole", **options))
    fit(plan_for(tiny, rows, tmp_path / "run", **options), resume="auto")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def no_gpu_memory(*_: object) -> torch.Tensor:
    """No GPU here to fill: the error is torch's own."""
    raise torch.OutOfMemoryError("CUDA out of memory")


def no_memory(*_: object) -> torch.Tensor:
    """More than a process can address."""
    return torch.empty(1 << 50, dtype=torch.uint8)


@pytest.mark.parametrize("users", [None, *ALLOCATOR])
@pytest.mark.parametrize("full", [no_gpu_memory, no_memory])
def test_memory_that_runs_out_ends_with_advice(
    tiny: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: Any, users: str | None
) -> None:
    """What the user said of torch's allocator stands, and on a CPU it is no matter."""
    from ftx.train import path as loop

    monkeypatch.setattr(loop, "loss_sum", full)
    for name in ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    if users:
        monkeypatch.setenv(users, "max_split_size_mb:512")
    with pytest.raises(
        FtxError, match=r"not enough memory; try --set train\.memory=balanced, or train\.micro_batch"
    ) as caught:
        fit(plan_for(tiny, rows, tmp_path / "run"))
    assert caught.value.exit_code == 4
    segments = "expandable_segments:True in the environment" in str(caught.value)
    assert segments is (full is no_gpu_memory and users is None)


def test_a_run_that_saved_nothing_gives_its_folder_back(ftx: Any, tiny: Path, rows: Path, tmp_path: Path) -> None:
    """As after a lack of memory before the first checkpoint."""
    flags = ["--model", tiny, "--data", rows, "--out", tmp_path / "run", "--max-steps", 1]
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "plan.json").write_text("{}", "utf-8")
    (folder / "events.jsonl").write_text("old\n", "utf-8")
    assert ftx("train", *flags).code == 0
    assert "old" not in (folder / "events.jsonl").read_text("utf-8")
    refused = ftx("train", *flags)
    assert (refused.code, "--resume auto" in refused.err) == (2, False)


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ("[q_prj]", "method.targets: 'q_prj' is no linear layer of this model; did you mean 'q_proj'?"),
        ("[wqkv]", "method.targets: 'wqkv' is no linear layer of this model; known: down_proj, gate_proj, k_proj"),
        ("[embed_tokens]", "method.targets: 'embed_tokens' is no linear layer of this model"),
        ("[]", "method.targets"),
    ],
)
def test_targets_that_are_not_there_are_refused_before_anything_is_written(
    targets: str, sentence: str, ftx: Any, tiny: Path, rows: Path
) -> None:
    result = ftx("train", "--model", tiny, "--data", rows, "--set", f"method.targets={targets}")
    assert result.code == 2
    assert sentence in result.err
    assert not Path("runs").exists()


def test_options_of_a_method_need_no_name_when_it_is_the_default(ftx: Any, tiny: Path, rows: Path) -> None:
    (event,) = ftx("plan", "--model", tiny, "--data", rows, "--set", "method.rank=4", "--json").events
    assert (event["method"]["name"], event["method"]["rank"]) == ("lora", 4)


def test_a_lack_of_memory_is_told_by_every_command(ftx: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftx import talk

    def no_room(*_: object) -> None:
        raise MemoryError

    for full in (no_room, no_gpu_memory, no_memory):
        monkeypatch.setattr(talk, "open_talk", lambda *_, full=full, **__: full())
        result = ftx("chat", tiny, "--once", "a")
        assert (result.code, result.err) == (4, "ftx: there is not enough memory for this model\n")


def test_a_plan_says_where_each_value_comes_from(ftx: Any, tiny: Path, rows: Path) -> None:
    out = ftx("plan", "--model", tiny, "--data", rows, "--max-length", 99).out
    told = {line.split("│")[1].strip(): line.split("│")[3].strip() for line in out.splitlines() if line.count("│") == 4}
    assert told["model.path"] == "--model"
    assert told["data.max_length"] == "--max-length"
    assert told["data.sets.0.source.path"] == "--data"
    assert told["train.epochs"] == told["data.packing.name"] == "default"
    assert told["train.steps_per_epoch"] == told["data.rows.kept"] == "computed"
