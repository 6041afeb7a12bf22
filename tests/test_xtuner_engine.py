"""XTuner's own engine beside ftx: what it trained in its image is read, and how it is called."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ftx.checkpoint_files import read_json
from ftx.data.named import named_templates
from ftx.data.pack import strung
from ftx_internlm2.family import InternLM2
from ftx_sources.xtuner_rows import REPLAYS, conversation
from ftx_xtuner import engine
from ftx_xtuner.config import LoraOptions, read_config
from ftx_xtuner.pth import read_pth
from xtuner_engine import ANSWER, BASE, QUESTION, RUN, TUTORIAL, cut_down, write_run

PTH = RUN / "iter_288.pth"
ROWS, LENGTH = 501, 256


def logged() -> list[float]:
    """The losses in XTuner's log: of iteration 1, of 1 and 2, ..., of the last ten."""
    return [json.loads(line)["loss"] for line in (RUN / "scalars.json").read_text("utf-8").splitlines()]


def test_the_tutorials_config_is_read_whole_and_cut_down() -> None:
    for text, rank in ((TUTORIAL.read_text("utf-8"), 64), (cut_down(TUTORIAL.read_text("utf-8")), 4)):
        config = read_config(text, "it")
        assert config.template == "default"
        assert config.lora == {"llm": LoraOptions(rank, 16.0)}


def test_the_recorded_run_is_the_tutorials_personal_assistant() -> None:
    found = read_pth(PTH)
    config = read_config(found.config or "", "it")
    assert (found.step, config.base, config.template) == (288, "base", "default")
    assert config.lora == {"llm": LoraOptions(4, 16.0)}
    assert len(found.tensors) == 2 * (6 * 5 + 1)  # A and B of five weights a layer, and of the head
    assert logged()[0] > 9
    assert logged()[-1] < 0.5


@pytest.mark.usefixtures("no_gradients")
def test_xtuners_losses_before_its_first_step_are_ftxs() -> None:
    """The same rows, labels and base: each of its first four packed rows has the loss of one of ours."""
    family = InternLM2()
    row = {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]}
    talk = conversation(REPLAYS["openai"].turns(row), None)
    sample = named_templates()["default"].encode(talk, family.tokenizer(BASE), typed_specials=True)
    ids, labels = sample.ids * ROWS, sample.labels * ROWS
    pieces = strung([len(sample.ids)] * ROWS, LENGTH)
    model = family.load(BASE, dtype=torch.float32, device="cpu", attention="sdpa")
    starts = {start % len(sample.ids): start for start, _ in pieces}
    ours = []
    for start in starts.values():
        given = torch.tensor([ids[start : start + LENGTH]])
        ours.append(float(model(input_ids=given, labels=torch.tensor([labels[start : start + LENGTH]])).loss))
    means = [0.0, *logged()[:4]]
    for n in range(1, 5):
        loss = n * means[n] - (n - 1) * means[n - 1]
        assert min(abs(loss - one) for one in ours) < 1e-4


def test_ftx_reads_what_xtuner_trained(ftx: Any, tmp_path: Path) -> None:
    assert ftx("xtuner", "adapter", PTH, "--base", BASE, "--out", "adapter").code == 0
    assert ftx("xtuner", "merge", PTH, "--base", BASE, "--out", "merged", "--dtype", "auto").code == 0
    assert read_json(tmp_path / "merged" / "config.json")["model_type"] == "internlm2"
    ends = [read_json(tmp_path / name / "generation_config.json")["eos_token_id"] for name in ("adapter", "merged")]
    assert ends[0] == ends[1]
    for form in ("adapter", "merged"):
        assert ftx("chat", form, "--once", QUESTION).out.strip() == ANSWER
    assert ftx("verify", "adapter", "merged").code == 0


def test_an_adapter_as_xtuner_wrote_it_is_sent_to_the_command_that_takes_it(ftx: Any, tmp_path: Path) -> None:
    official = tmp_path / "hf"
    shutil.copytree(Path(__file__).parent / "fixtures" / "golden" / "xtuner_merge" / "hf", official)
    done = ftx("chat", official, "--base", BASE, "--once", QUESTION)
    assert done.code == 2
    assert "ftx xtuner adapter" in done.err


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH, and empty."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def put_engine(folder: Path, code: int) -> None:
    """A docker that says of every image whether it is there: by the engine's exit code, 0 or 1."""
    program = folder / "docker"
    program.write_text(f"#!/bin/sh\necho amd64\n[ $1 = info ] || exit {code}\n", "utf-8")
    program.chmod(0o755)


def test_an_image_sees_this_folder_and_what_the_config_names(ftx: Any, programs: Path, tmp_path: Path) -> None:
    put_engine(programs, 0)
    work, model, more = tmp_path / "work", tmp_path / "model", tmp_path / "more"
    for folder in (work, model, more):
        folder.mkdir()
    os.chdir(work)
    (work / "config.py").write_text(f"base = '{model}'\ngone = '/root/ft/nowhere'\nlong = '/{'x' * 300}'\n", "utf-8")
    done = ftx("xtuner", "run", "--image", "x:1", "--mount", more, "--print", "--", "train", "config.py", "--seed", "1")
    assert done.code == 0, done.err
    assert re.findall(r"--mount=type=bind,source=(\S+)", done.out) == [
        f"{model},target={model},readonly",
        f"{more},target={more},readonly",
        f"{work},target={work}",
    ]
    assert f"--workdir={work}" in done.out
    assert "--network=none" in done.out
    assert done.out.endswith("x:1 train config.py --seed 1\n")
    assert "--gpus" not in done.out


def test_links_of_words_and_configs_lead_somewhere_in_the_image(
    ftx: Any, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_engine(programs, 0)
    for name in ("work", "configs", "hub/blobs", "hub/snapshots/main", "done"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "hub/blobs/1").write_text("x", "utf-8")
    (tmp_path / "hub/snapshots/main/model.safetensors").symlink_to("../../blobs/1")
    (tmp_path / "configs/cfg.py").write_text(f"base = '{tmp_path}/hub/snapshots/main'\n", "utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "configs")
    monkeypatch.chdir(tmp_path / "work")
    words = ("train", tmp_path / "link/cfg.py", "--work-dir", tmp_path / "done")
    done = ftx("xtuner", "run", "--image", "x:1", "--print", "--", *words)
    assert done.code == 0, done.err
    found = dict(re.findall(rf"source={tmp_path}/(\S+?),target=\S+?(,readonly)?(?= )", done.out))
    read = ("configs", "hub/blobs", "hub/snapshots/main", "link")
    assert found == {**dict.fromkeys(read, ",readonly"), "done": "", "work": ""}


@pytest.mark.parametrize(
    "words", [("train", "c.py", "--work-dir=../wd"), ("convert", "pth_to_hf", "c.py", "p", "../wd")]
)
def test_what_is_written_elsewhere_must_be_there(
    ftx: Any, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    put_engine(programs, 0)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    done = ftx("xtuner", "run", "--image", "x:1", "--print", "--", *words)
    assert done.code == 2
    assert f"{tmp_path}/wd is to be written and is not there; make it first: mkdir -p {tmp_path}/wd" in done.err
    (tmp_path / "wd").mkdir()
    assert (
        f"source={tmp_path}/wd,target={tmp_path}/wd "
        in ftx("xtuner", "run", "--image", "x:1", "--print", "--", *words).out
    )


def test_the_home_folder_is_not_handed_over(
    ftx: Any, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_engine(programs, 0)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    done = ftx("xtuner", "run", "--image", "x:1", "--print", "--", "train", "config.py")
    assert (done.code, "is not handed to a container as a whole" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "image_there", "sentence"),
    [
        (
            [],
            None,
            "environment 'xtuner' is not made yet; run: ftx env create xtuner, or use the image: ftx xtuner run",
        ),
        (["--image", "x:1"], None, "there is no Docker or Podman here to run an image with; install it"),
        (["--image", "x:1"], False, "there is no image x:1 here; fetch it: docker pull x:1, or name another with"),
        (["--image", "ftx:xtuner"], False, "there is no image ftx:xtuner here; build it from a checkout: make image-"),
        (["--image", "x:1", "--mount", "gone"], True, "gone is not there"),
        (["--mount", "."], None, "--mount is for an image; add --image ftx:xtuner"),
        (["--gpus"], None, "--gpus is for an image; add --image ftx:xtuner"),
        (["--gpsu"], None, "--gpsu"),
    ],
)
def test_what_is_lacking_is_said(
    options: list[str], image_there: bool | None, sentence: str, ftx: Any, programs: Path
) -> None:
    if image_there is not None:
        put_engine(programs, 0 if image_there else 1)
    done = ftx("xtuner", "run", *options, "--", "train", "config.py")
    assert done.code == 2
    assert sentence in re.sub(r"\s+", " ", done.err)


def test_a_config_that_is_no_python_names_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text("base = (", "utf-8")
    assert engine._needs([str(tmp_path / "config.py")], tmp_path).reads == {tmp_path}


def test_a_run_is_written_for_xtuner(tmp_path: Path) -> None:
    write_run(tmp_path / "run", rows=3)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"base", "rows.json", "config.py", "fetch.py"}
    assert "auto_map" in read_json(tmp_path / "run" / "base" / "config.json")
