"""XTuner's checkpoints: strange ones are refused, configs are never run, and what was trained goes on in ftx."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import FIXTURES, TINY
from ftx import ModelError
from ftx_internlm2.family import InternLM2
from ftx_xtuner.config import LoraOptions, read_config
from ftx_xtuner.merge import merged
from ftx_xtuner.pth import read_pth
from ftx_xtuner.trained import Factors

GOLDEN = FIXTURES / "golden"
PTH = GOLDEN / "sft_trajectory_lora" / "iter_26.pth"
INTERNVL = GOLDEN / "internvl2_xtuner_lora"
HF = GOLDEN / "xtuner_merge" / "hf"


class Runs:
    """Unpickled, it would run a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def test_a_genuine_checkpoint_gives_tensors_config_and_step() -> None:
    found = read_pth(PTH)
    assert found.step == 26
    assert len(found.tensors) == 32
    config = read_config(found.config or "", "it")
    assert config.template == "internlm2_chat"
    assert Path(str(config.base)).name == "traj_internlm2_base"
    assert config.lora == {"llm": LoraOptions(4, 8.0)}


@pytest.mark.parametrize("place", ["state_dict", "message_hub", "optimizer"])
def test_a_checkpoint_that_would_run_something_is_not_opened(place: str, tmp_path: Path) -> None:
    held = {"state_dict": {"llm.w": torch.ones(2)}, place: {"llm.w": Runs()}}
    torch.save(held, tmp_path / "iter_1.pth")
    with pytest.raises(ModelError, match=r"holds posix\.system, which no checkpoint of XTuner needs"):
        read_pth(tmp_path / "iter_1.pth")
    assert not Path("ran").exists()


def test_an_escape_by_getattr_calls_nothing(tmp_path: Path) -> None:
    """getattr is a name that genuine files have; here it would reach for a method."""
    escape = b"c__builtin__\ngetattr\n(ccollections\nOrderedDict\nX\x08\x00\x00\x00fromkeystR(]X\x01\x00\x00\x00atR."
    torch.save({"state_dict": {"llm.w": torch.ones(2)}}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "evil.pth", "w") as evil:
        for name in plain.namelist():
            evil.writestr(name, b"\x80\x02" + escape if name.endswith("data.pkl") else plain.read(name))
    with pytest.raises(ModelError, match=r"evil\.pth cannot be read as a checkpoint: Trying to call reduce"):
        read_pth(tmp_path / "evil.pth")


@pytest.mark.parametrize("protocol", [2, 4])
def test_unknown_classes_are_refused_whatever_the_protocol(protocol: int, tmp_path: Path) -> None:
    torch.save({"state_dict": Runs()}, tmp_path / "iter_1.pth", pickle_protocol=protocol)
    with pytest.raises(ModelError, match=r"iter_1\.pth"):
        read_pth(tmp_path / "iter_1.pth")
    assert not Path("ran").exists()


@pytest.mark.parametrize("size", [0, 10, 50_000, 217_000])
def test_a_truncated_checkpoint_is_refused(size: int, tmp_path: Path) -> None:
    (tmp_path / "iter_26.pth").write_bytes(PTH.read_bytes()[:size])
    with pytest.raises(ModelError, match="is truncated or no PyTorch checkpoint"):
        read_pth(tmp_path / "iter_26.pth")


def test_a_bare_pickle_or_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "iter_1.pth").write_bytes(pickle.dumps({"state_dict": Runs()}))
    with pytest.raises(ModelError, match="no PyTorch checkpoint"):
        read_pth(tmp_path / "iter_1.pth")
    with pytest.raises(ModelError, match="does not exist"):
        read_pth(tmp_path / "gone.pth")


@pytest.mark.parametrize("held", [{}, {"state_dict": {}}, {"state_dict": [1]}, {"state_dict": {"a": 1}}, [1]])
def test_a_checkpoint_without_named_tensors_is_refused(held: Any, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "iter_1.pth")
    with pytest.raises(ModelError, match=r"named tensors|no mapping"):
        read_pth(tmp_path / "iter_1.pth")


def deepspeed(folder: Path) -> Path:
    """A folder as DeepSpeed writes it for ZeRO-2, of the genuine checkpoint's weights."""
    folder.mkdir()
    genuine = read_pth(PTH)
    held = {
        "module": OrderedDict((name, tensor.half()) for name, tensor in genuine.tensors.items()),
        "optimizer": None,
        "param_shapes": [OrderedDict((name, tensor.shape) for name, tensor in genuine.tensors.items())],
        "ds_config": {"zero_optimization": {"stage": 2}, "fp16": {"enabled": True}},
        "dtype": torch.float16,
        "meta": {"iter": 26, "cfg": genuine.config},
    }
    torch.save(held, folder / "mp_rank_00_model_states.pt")
    torch.save({"optimizer_state_dict": Runs()}, folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    return folder


def test_deepspeeds_folder_is_read_and_merged(ftx: Any, tmp_path: Path) -> None:
    folder = deepspeed(tmp_path / "iter_26.pth")
    assert read_pth(folder).step == 26
    for path, out in ((folder, "of_folder"), (PTH, "of_file")):
        assert ftx("xtuner", "merge", path, "--base", TINY, "--out", out).code == 0
    ours, theirs = (load_file(f"{out}/model.safetensors") for out in ("of_folder", "of_file"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weights_spread_over_processes_are_refused(tmp_path: Path) -> None:
    folder = deepspeed(tmp_path / "iter_26.pth")
    (folder / "mp_rank_00_model_states.pt").rename(folder / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    with pytest.raises(ModelError, match=r"join them with the zero_to_fp32\.py"):
        read_pth(folder)


@pytest.mark.parametrize(
    ("text", "lora"),
    [
        ("model = dict(lora=dict(type=LoraConfig, r=64, lora_alpha=16))", {"llm": LoraOptions(64, 16.0)}),
        ("a = 32\nmodel = dict(llm_lora=dict(r=4, lora_alpha=a))", {"llm": LoraOptions(4, 32.0)}),
        ("model = {'lora': {'r': 4, 'lora_alpha': open('x')}}", {"llm": LoraOptions(4, None)}),
        ("model = dict(lora=dict(target_modules=['wqkv']))", {"llm": LoraOptions(8, 8.0, ("wqkv",))}),
        ("model = dict(visual_encoder_lora=dict(r=2, use_rslora=True))", {"vision": LoraOptions(2, 8.0, None, True)}),
        ("__import__('os').system('touch ran')\nmodel = dict(lora=None)", {}),
    ],
)
def test_a_config_is_read_and_never_run(text: str, lora: dict[str, LoraOptions]) -> None:
    assert read_config(text, "it").lora == lora
    assert not Path("ran").exists()


def test_the_template_is_known_when_there_is_one() -> None:
    assert read_config("prompt_template = PROMPT_TEMPLATE.default", "it").template == "default"
    assert read_config("t = 'xtuner.utils.PROMPT_TEMPLATE.gemma'", "it").template == "gemma"
    assert read_config("a = PROMPT_TEMPLATE.a\nb = PROMPT_TEMPLATE.b", "it").template is None


@pytest.mark.parametrize("text", ["model = (", "\0", "(" * 10_000, "model = dict(lora=dict(use_dora=True))"])
def test_a_config_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="config"):
        read_config(text, "it")


def test_the_adapter_goes_on_in_ftx(ftx: Any, tmp_path: Path) -> None:
    """On native names, with q, k and v apart, it computes what the merged model does."""
    from peft import PeftModel

    assert ftx("xtuner", "adapter", PTH, "--base", TINY, "--out", "native").code == 0
    assert ftx("xtuner", "merge", PTH, "--base", TINY, "--out", "whole", "--dtype", "auto").code == 0
    family, ids = InternLM2(), torch.arange(5, 45)[None]
    plain = family.load(TINY, dtype=torch.float32, device="cpu", attention="eager")
    before = plain(input_ids=ids).logits
    tuned = PeftModel.from_pretrained(plain, "native", is_trainable=True)
    learning = {name.split(".lora_")[0].split(".")[-1] for name, p in tuned.named_parameters() if p.requires_grad}
    assert learning == {*family.lora_targets(plain), "lm_head"}
    alone = family.load(Path("whole"), dtype=torch.float32, device="cpu", attention="eager")(input_ids=ids).logits
    assert (tuned.eval()(input_ids=ids).logits - alone).abs().max() <= 1e-5
    assert (alone - before).abs().max() > 0.1
    asked = [
        ftx("chat", folder, "--once", "Who are you?", "--max-new-tokens", 8, "--json") for folder in ("native", "whole")
    ]
    assert [one.code for one in asked] == [0, 0]
    assert asked[0].events == asked[1].events


def test_the_template_of_the_training_travels(ftx: Any, tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(
        f"prompt_template = PROMPT_TEMPLATE.default\n{(read_pth(PTH).config or '')}".replace(
            "internlm2_chat", "default"
        )
    )
    flags = ["--base", TINY, "--config", tmp_path / "config.py"]
    (event,) = ftx("xtuner", "merge", PTH, *flags, "--out", "out", "--json").events
    assert event["template"] == "default"
    assert "<|User|>" in Path("out/chat_template.jinja").read_text("utf-8")


def test_dtypes(ftx: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    for flags, expected in (([], "float16"), (["--dtype", "auto"], "bfloat16"), (["--dtype", "float32"], "float32")):
        assert ftx("xtuner", "merge", PTH, "--base", base, "--out", expected, *flags).code == 0
        found = load_file(f"{expected}/model.safetensors")
        assert {str(tensor.dtype) for tensor in found.values()} == {f"torch.{expected}"}
    config = json.loads(Path("float16/config.json").read_text("utf-8"))
    assert config["torch_dtype"] == "float16"
    assert Path("bfloat16/config.json").read_bytes() == (base / "config.json").read_bytes()
    exact, once = load_file("float32/model.safetensors"), load_file("bfloat16/model.safetensors")
    assert all(torch.equal(exact[name].to(torch.bfloat16), once[name]) for name in exact)


def test_one_rounding_is_nearer_than_xtuners_three() -> None:
    torch.manual_seed(0)
    weight, factors = torch.randn(64, 32), Factors(torch.randn(4, 32), torch.randn(64, 4), 0.3)
    exact = weight.bfloat16().double() + factors.b.double() @ factors.a.double() * 0.3
    once = (merged(weight.bfloat16(), factors, None).double() - exact).abs().mean()
    assert once < 0.7 * (merged(weight, factors, torch.bfloat16).double() - exact).abs().mean()


def altered(folder: Path, change: Any) -> Path:
    """A copy of the converted adapter with other tensors or another config."""
    shutil.copytree(HF, folder)
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    tensors = torch.load(folder / "adapter_model.bin", weights_only=True)
    change(config, tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    torch.save(tensors, folder / "adapter_model.bin")
    return folder


HEAD = "base_model.model.output.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c, t: t.update({HEAD: torch.ones(4, 5)}), "output.weight is (633, 64) in"),
        (lambda c, t: t.update({HEAD: torch.ones(3, 64)}), "the LoRA factors of output do not fit each other"),
        (lambda c, t: t.pop(HEAD), "but one of the two LoRA factors of output"),
        (lambda c, t: t.update({"base_model.model.x.weight": torch.ones(2)}), "x.weight, which is no part of a LoRA"),
        (lambda c, t: t.update({HEAD.replace("lora_A", "lora_embedding_A"): torch.ones(2)}), "cannot be merged"),
        (lambda c, t: t.update({HEAD: "text"}), "something else than named tensors"),
        (lambda c, t: c.update(use_dora=True), "uses use_dora, which cannot be merged yet"),
        (lambda c, t: c.update(peft_type="IA3"), "is a IA3 adapter; ftx merges LoRA"),
        (lambda c, t: c.pop("lora_alpha"), "has no lora_alpha above 0; give --alpha NUMBER"),
    ],
)
def test_a_wrong_adapter_ends_in_a_sentence(change: Any, sentence: str, ftx: Any, tmp_path: Path) -> None:
    result = ftx("xtuner", "merge", altered(tmp_path / "hf", change), "--base", TINY, "--out", "out")
    assert result.code == 2
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([PTH, "--base", "gone"], "the base model gone is not there; give --base FOLDER"),
        ([PTH], "traj_internlm2_base is not there; give --base FOLDER"),
        ([INTERNVL / "iter_4.pth", "--alpha", 8], "does not say what it was trained on; give --base FOLDER"),
        ([INTERNVL / "iter_4.pth", "--base", TINY], "give --config FILE of its training, or --alpha NUMBER"),
        ([INTERNVL / "iter_4.pth", "--base", TINY, "--alpha", 8], "does not have: it is another model's"),
        ([PTH, "--base", GOLDEN / "clip_tiny"], "does not have: it is another model's"),
        ([PTH, "--base", TINY, "--config", "gone.py"], "--config: gone.py cannot be read"),
        ([PTH, "--base", TINY, "--config", TINY / "tokenizer.model"], "--config: "),
        ([TINY], "is no .pth file, no checkpoint of DeepSpeed and no adapter"),
        (["gone.pth", "--base", TINY], "is no .pth file, no checkpoint of DeepSpeed and no adapter"),
    ],
)
@pytest.mark.parametrize("command", ["merge", "adapter"])
def test_wrong_input_ends_in_a_sentence(command: str, arguments: list[Any], sentence: str, ftx: Any) -> None:
    result = ftx("xtuner", command, *arguments, "--out", "out")
    assert result.code == 2
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("r=64, lora_alpha=16", "has rank 4, but the config makes it 64: it is another training's config"),
        ("r=4, lora_alpha=16, target_modules=['wqkv']", "is tuned, but no target of the config"),
        ("r=4, lora_alpha=16, alpha_pattern=dict(wqkv=3)", "uses alpha_pattern, which cannot be merged yet"),
        ("r=4, lora_alpha=compute()", "give --config FILE of its training, or --alpha NUMBER"),
    ],
)
def test_a_config_of_another_training_is_refused(text: str, sentence: str, ftx: Any, tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(f"model = dict(lora=dict({text}))")
    result = ftx("xtuner", "merge", PTH, "--base", TINY, "--config", "config.py", "--out", "out")
    assert result.code == 2
    assert sentence in result.err


def test_an_existing_folder_is_left_alone(ftx: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for command in ("merge", "adapter"):
        assert "--out: out exists already" in ftx("xtuner", command, PTH, "--base", TINY, "--out", "out").err
    assert not list((tmp_path / "out").iterdir())


def test_an_adapter_cannot_hold_what_was_trained_whole(ftx: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": {"llm.model.norm.weight": torch.ones(64)}}, tmp_path / "full.pth")
    result = ftx("xtuner", "adapter", "full.pth", "--base", TINY, "--out", "out")
    assert "model.norm.weight was trained as a whole" in result.err
    assert ftx("xtuner", "merge", "full.pth", "--base", TINY, "--out", "out").code == 0
    merged, base = load_file("out/model.safetensors"), load_file(TINY / "model.safetensors")
    assert torch.equal(merged.pop("model.norm.weight"), torch.ones(64).half())
    assert all(torch.equal(tensor, base[name].half()) for name, tensor in merged.items())


def test_parts_of_other_models_are_left_out_and_said(ftx: Any, tmp_path: Path) -> None:
    tensors = {**read_pth(PTH).tensors, "projector.model.0.weight": torch.ones(2, 2)}
    torch.save({"state_dict": tensors}, tmp_path / "llava.pth")
    result = ftx("xtuner", "merge", "llava.pth", "--base", TINY, "--alpha", 8, "--out", "out")
    assert result.code == 0
    assert "projector of the checkpoint are not of" in result.err


def test_the_tower_of_a_llava_is_merged_by_its_base(ftx: Any, tmp_path: Path) -> None:
    """Of one checkpoint, whichever part the base has."""
    adapter = load_file(GOLDEN / "llava_internlm2" / "llava" / "visual_encoder_adapter" / "adapter_model.safetensors")
    tower = {f"visual_encoder.{name.replace('.weight', '.default.weight')}": tensor for name, tensor in adapter.items()}
    torch.save({"state_dict": {**read_pth(PTH).tensors, **tower}}, tmp_path / "llava.pth")
    recorded = GOLDEN / "xtuner_merge"
    towers, language = (
        load_file(recorded / "clip_merged" / "model.safetensors"),
        recorded / "merged" / "pytorch_model.bin",
    )
    for base, theirs in ((GOLDEN / "clip_tiny", towers), (TINY, torch.load(language, weights_only=True))):
        assert ftx("xtuner", "merge", "llava.pth", "--base", base, "--alpha", 8, "--out", base.name).code == 0
        found = load_file(f"{base.name}/model.safetensors")
        assert all(torch.equal(found[name], tensor) for name, tensor in theirs.items())
    assert Path("clip_tiny/preprocessor_config.json").is_file()
