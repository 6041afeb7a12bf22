"""XTuner's training configs as recipes of ftx: what they say is kept, and what cannot be is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftx_xtuner.pth import read_pth
from ftx_xtuner.recipe import INTERNLM2
from xtuner_engine import RUN, TUTORIAL, write_run

CONFIG = """
model = dict(type=SupervisedFinetune, llm=dict(pretrained_model_name_or_path='internlm/internlm2-7b'), lora=dict(r=4))
data = dict(type=process_hf_dataset, max_length=64, use_varlen_attn=True, pack_to_max_length=True,
    dataset=dict(type=load_dataset, path='tatsu-lab/alpaca'), dataset_map_fn=alpaca_map_fn)
train_dataloader = dict(batch_size=2, dataset=data)
"""


def test_the_tutorials_config_becomes_its_recipe(ftx: Any) -> None:
    done = ftx("xtuner", "recipe", TUTORIAL)
    recipe = yaml.safe_load(done.out)
    assert recipe["model"] == "/root/ft/model"
    assert recipe["template"] == "default"
    assert recipe["data"] == {
        "sets": [{"path": "/root/ft/data/personal_assistant.json", "format": "openai_map_fn"}],
        "max_length": 1024,
        "overlong": "cut",
        "packing": "xtuner",
        "typed_specials": True,
    }
    assert recipe["method"] == {"name": "qlora", "rank": 64, "alpha": 16, "dropout": 0.1}
    assert recipe["train"] == {
        "epochs": 2,
        "lr": 2e-4,
        "global_batch_size": 16,
        "micro_batch_size": 1,
        "warmup_ratio": 0.03,
        "weight_decay": 0,
        "betas": [0.9, 0.999],
        "max_grad_norm": 1,
    }
    assert recipe["eval"] == {"questions": ["请你介绍一下你自己", "你是谁", "你是我的小助手吗"]}


def test_the_recipe_trains(ftx: Any, tmp_path: Path) -> None:
    write_run(tmp_path / "run", rows=30)
    os.chdir(tmp_path / "run")
    assert ftx("xtuner", "recipe", "config.py", "--out", "recipe.yaml").code == 0
    assert yaml.safe_load(Path("recipe.yaml").read_text("utf-8"))["method"]["targets"] == INTERNLM2
    done = ftx("train", "recipe.yaml", "--max-steps", 2, "--out", "tuned", "--json")
    assert done.code == 0, done.err
    steps = [event["loss"] for event in done.events if event["event"] == "step"]
    assert len(steps) == 2
    assert steps[0] == pytest.approx(11.27, abs=0.2)  # XTuner's first: 11.2737


def test_a_config_as_a_checkpoint_holds_it_becomes_the_same_recipe(ftx: Any, tmp_path: Path) -> None:
    write_run(tmp_path / "run", rows=3)
    os.chdir(tmp_path / "run")
    Path("dumped.py").write_text(str(read_pth(RUN / "iter_288.pth").config), "utf-8")
    written, dumped = (yaml.safe_load(ftx("xtuner", "recipe", name).out) for name in ("config.py", "dumped.py"))
    assert dumped["train"].pop("seed") == 42  # of the command line
    assert dumped == written


def test_sets_of_a_hub_and_what_is_left_out_take_xtuners_defaults(ftx: Any, tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(CONFIG, "utf-8")
    recipe = yaml.safe_load(ftx("xtuner", "recipe", "config.py").out)
    assert recipe["model"] == "huggingface:internlm/internlm2-7b"
    assert recipe["data"]["sets"] == [{"path": "huggingface:tatsu-lab/alpaca", "format": "alpaca_map_fn"}]
    assert recipe["data"]["packing"] == "best_fit"  # samples that do not see each other
    assert recipe["method"] == {"name": "lora", "rank": 4, "alpha": 8, "dropout": 0.0, "targets": INTERNLM2}
    assert recipe["train"] == {"global_batch_size": 2, "micro_batch_size": 2}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("SupervisedFinetune", "LLaVAModel", "config.py trains LLaVAModel; ftx takes over SupervisedFinetune"),
        ("=process_hf_dataset", "=ConcatDataset", "reads its data by ConcatDataset, not process_hf_dataset"),
        ("path='tatsu-lab/alpaca'", "path=choose()", "does not write out where its data is"),
        ("pretrained_model_name_or_path='internlm/internlm2-7b'", "", "names no base model"),
        ("lora=dict(r=4)", "lora=dict(r=4, use_dora=True)", "uses use_dora"),
        ("model =", "model", "is no XTuner config"),
    ],
)
def test_another_config_ends_in_a_sentence(old: str, new: str, sentence: str, ftx: Any, tmp_path: Path) -> None:
    assert old in CONFIG
    (tmp_path / "config.py").write_text(CONFIG.replace(old, new), "utf-8")
    done = ftx("xtuner", "recipe", "config.py", "--out", "recipe.yaml")
    assert done.code == 2
    assert sentence in " ".join(done.err.split())
    assert not (tmp_path / "recipe.yaml").exists()


def test_no_file_is_overwritten_and_a_missing_config_is_said(ftx: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine", "utf-8")
    done = ftx("xtuner", "recipe", TUTORIAL, "--out", "recipe.yaml")
    assert (done.code, "exists already" in done.err) == (2, True)
    assert (tmp_path / "recipe.yaml").read_text("utf-8") == "mine"
    assert "cannot be read" in ftx("xtuner", "recipe", "gone.py").err
