"""InternVL2: every style, every method, packing, processes, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from conftest import TINY, Result
from ftx import Message
from ftx.checkpoint_files import Checkpoint
from ftx.export.weights import export_weights
from ftx.plan import make_plan
from ftx.plugins import load_registry
from ftx.recipe import written
from ftx.run import losses
from ftx.train.fit import fit
from ftx_internvl.family import InternVL
from internvit import features
from internvl_models import STYLES, config_of, make
from picture_rows import picture_row, write_picture_rows

FAMILY = InternVL()
METHODS = ("lora", "qlora", "full", "projector")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {style: make(style, root / style) for style in STYLES}


@pytest.mark.parametrize("style", STYLES)
def test_features_are_those_of_the_official_arithmetic(style: str, folders: dict[str, Path]) -> None:
    folder = folders[style]
    FAMILY.inspect(folder)
    model = FAMILY.load(folder, dtype=torch.float32, device="cpu", attention="sdpa")
    pixels = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = model.picture_features(pixels)
        theirs = features(load_file(folder / "model.safetensors"), config_of(style), pixels)
    assert ours.shape == (3, 4, 64)
    assert float((ours - theirs).abs().max()) <= 5e-5


@pytest.mark.parametrize("style", STYLES)
def test_every_style_comes_out_bit_for_bit(style: str, folders: dict[str, Path], tmp_path: Path) -> None:
    model = FAMILY.load(folders[style], dtype=torch.float32, device="cpu", attention="sdpa")
    export_weights(model.state_dict(), FAMILY, folders[style], tmp_path)
    source, out = load_file(folders[style] / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert source.keys() == out.keys()
    assert all(torch.equal(source[name], out[name]) for name in source)


def flags(folder: Path, rows: Path, method: str, *more: Any) -> list[Any]:
    rate = {"full": 3e-3, "projector": 1e-2}.get(method, 5e-3)
    rank = ["--set", "method.rank=8", "--set", "method.alpha=16"] if "lora" in method else []
    short = ["--max-steps", 8, "--global-batch-size", 6, "--micro-batch-size", 3, "--max-length", 400]
    return ["--model", folder, "--data", rows, "--method", method, "--lr", rate, *rank, *short, *more]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("method", METHODS)
def test_each_style_learns_by_each_method(
    style: str, method: str, ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = write_picture_rows(tmp_path / "data", 12)
    result = ftx("train", *flags(folders[style], rows, method, "--out", "run"), "--json")
    assert result.code == 0, result.err
    curve = list(losses(Path("run")).values())
    assert curve[-1] < curve[0]
    if method == "full":
        stored = Checkpoint.of(Path("run/model")).tensors
        assert stored.keys() == Checkpoint.of(folders[style]).tensors.keys()
        return
    merged = ftx("merge", "run", "--json")
    assert merged.code == 0, merged.err
    before, after = (load_file(f / "model.safetensors") for f in (folders[style], Path("run/merged")))
    assert before.keys() == after.keys()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == ({"mlp1"} if method == "projector" else {"mlp1", "language_model"})
    picture = ["--image", tmp_path / "data" / "0.png"]
    said = ftx("chat", "run/merged", "--once", "What?", *picture, "--max-new-tokens", 8, "--json")
    assert said.code == 0, said.err


PARTS = {
    "language": "model.language_model.",
    "vision": "model.vision_tower.",
    "projector": "model.multi_modal_projector.",
}
LORA = r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.lora_[AB]\.default\.weight"
TOWER = r"(attention\.([qkv]_proj|projection_layer)|mlp\.fc[12])\.lora_[AB]\.default\.weight"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"name": "lora"}, {"language": LORA, "projector": ".*"}),
        ({"name": "lora", "projector": "frozen"}, {"language": LORA}),
        ({"name": "lora", "vision": "lora"}, {"language": LORA, "projector": ".*", "vision": TOWER}),
        ({"name": "lora", "vision": "full"}, {"language": LORA, "projector": ".*", "vision": ".*"}),
        ({"name": "lora", "targets": ["q_proj"]}, {"language": r".*q_proj\.lora_[AB].*", "projector": ".*"}),
        ({"name": "qlora"}, {"language": LORA, "projector": ".*"}),
        ({"name": "qlora", "quantize_head": True}, {"language": LORA, "projector": ".*"}),
        ({"name": "projector"}, {"projector": ".*"}),
        ({"name": "full"}, {"language": ".*", "projector": ".*", "head": ".*"}),
        ({"name": "full", "vision": "full"}, {"language": ".*", "projector": ".*", "vision": ".*", "head": ".*"}),
        ({"name": "full", "projector": "frozen"}, {"language": ".*", "head": ".*"}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if "name" in value else "",
)
def test_gradients_reach_exactly_what_is_trained(
    method: dict[str, Any], expected: dict[str, str], folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = write_picture_rows(tmp_path / "data", 6)
    values = {"model": str(folders["300m"]), "data": str(rows), "method": method}
    plan = make_plan(written(None, {key: (value, "test") for key, value in values.items()}), load_registry("none"))
    model = plan.family.load(
        plan.base,
        dtype=plan.method.storage_dtype(torch.float32),
        device="cpu",
        attention="sdpa",
        quantization=plan.method.quantization(torch.float32, plan.family),
    )
    model = plan.method.prepare(model, plan.family, None).train()
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    from ftx.data.collate import collate

    batch = collate([plan.feed.samples(i) for i in range(6)], 0, images=plan.images)
    labels = batch.pop("labels")
    logits = model(**batch).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {name for name, p in model.named_parameters() if p.requires_grad}
    found = {part: names_of(reached, prefix) for part, prefix in PARTS.items()}
    found["head"] = names_of(reached, "lm_head.")
    assert {part for part, names in found.items() if names} == set(expected)
    for part, pattern in expected.items():
        assert all(re.search(pattern + "$", name) for name in found[part]), found[part]
    assert reached == {name for names in found.values() for name in names}


def test_layers_behind_the_chosen_one_have_gradients_of_zero(folders: dict[str, Path]) -> None:
    model = FAMILY.load(folders["v1"], dtype=torch.float32, device="cpu", attention="sdpa").train()
    row = torch.tensor([[1, 5, *[-200] * 4, 7, 8]])
    model(input_ids=row, pixel_values=torch.ones(1, 3, 56, 56)).logits.sum().backward()
    last = model.model.vision_tower.encoder.layer[-1].mlp.fc1.weight.grad
    before = model.model.vision_tower.encoder.layer[-2].mlp.fc1.weight.grad
    assert last is not None and not last.any() and before is not None and before.any()


def names_of(names: set[str], prefix: str) -> set[str]:
    return {name for name in names if name.removeprefix("base_model.model.").startswith(prefix)}


def test_packed_rows_with_pictures_see_only_themselves(folders: dict[str, Path], tmp_path: Path) -> None:
    """One epoch in one step, packed and not: equal loss and gradients."""
    rows = write_picture_rows(tmp_path / "data", 9)
    found = []
    for packing in ("none", "best_fit"):
        values = {
            "model": str(folders["300m"]),
            "data": {"sets": str(rows), "packing": packing, "max_length": 600},
            "method": {"name": "projector"},
            "out": packing,
            "train": {"max_steps": 1, "global_batch_size": 9, "max_grad_norm": 1e9},
        }
        plan = make_plan(written(None, {key: (value, "test") for key, value in values.items()}), load_registry("none"))

        artifact = fit(plan)
        tensors = load_file(artifact.folder / "adapter_model.safetensors")
        found.append((losses(Path(packing))[1], len(plan.feed), tensors))
    (loss, unpacked, one), (packed_loss, packed, two) = found
    assert packed < unpacked == 9
    assert packed_loss == pytest.approx(loss, rel=2e-6)
    # AdamW's first step is the gradient's sign: compare where it does not hang on rounding.
    assert all(torch.allclose(one[name], two[name], atol=2.1e-3) for name in one)


@pytest.mark.system  # takes long: three processes that import torch
def test_mixed_rows_on_two_processes(ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path) -> None:
    """Micro-batches of one row, so that one process has a picture where the other has none; equal to one process."""
    rows = write_picture_rows(tmp_path / "data", 8, text_every=2)
    given = [
        *flags(folders["300m"], rows, "lora", "--set", "method.vision=lora"),
        *("--max-steps", 3, "--global-batch-size", 4, "--micro-batch-size", 1, "--set", "method.dropout=0"),
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    result = ftx("train", *given, "--out", one)
    assert result.code == 0, result.err
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617"]
    path = os.pathsep.join(str(Path(p).resolve()) for p in sys.path if p)
    subprocess.run(
        [sys.executable, *launch, "-m", "ftx", "train", *map(str, given), "--out", two],
        check=True,
        timeout=240,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    curves = [list(losses(out).values()) for out in (one, two)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


# the plugin's own recipe


def test_the_plugin_brings_its_recipe(ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path) -> None:
    rows = write_picture_rows(tmp_path / "data", 3)
    (plan,) = ftx("plan", "--plugin", "internvl", "--model", folders["300m"], "--data", rows, "--json").events
    assert plan["method"] | {"rank": 128, "alpha": 256.0, "dropout": 0.05, "name": "qlora"} == plan["method"]
    assert plan["data"]["max_length"] == 6656
    train = {"lr": 2e-5, "global_batch_size": 16, "micro_batch_size": 4, "weight_decay": 0.05, "epochs": 6.0}
    assert plan["train"] | train == plan["train"]
    assert plan["template"]["name"] == "internvl2"
    assert plan["origins"]["method.rank"] == "family internvl"
    full = ["--method", "full", "--json"]
    (other,) = ftx("plan", "--plugin", "internvl", "--model", folders["300m"], "--data", rows, *full).events
    assert (other["method"]["name"], other["train"]["epochs"], other["train"]["lr"]) == ("full", 6.0, 2e-5)
    lora = ["--method", "lora", "--set", "method.rank=8", "--json"]
    (third,) = ftx("plan", "--plugin", "internvl", "--model", folders["300m"], "--data", rows, *lora).events
    assert (third["method"]["alpha"], third["method"]["dropout"], third["train"]["lr"]) == (16.0, 0.05, 2e-5)


def test_without_data_it_says_what_to_type(ftx: Callable[..., Result]) -> None:
    result = ftx("train", "--plugin", "internvl")
    assert result.code == 2
    assert "data: is required (--data FILE)" in result.err
    assert "model" not in result.err


def test_tiles_are_the_users_choice(ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path) -> None:
    rows = write_picture_rows(tmp_path / "data", 3)
    given = ["plan", "--plugin", "internvl", "--model", folders["300m"], "--data", rows, "--json"]
    (many,) = ftx(*given).events
    (few,) = ftx(*given, "--set", "family.max_dynamic_patch=1").events
    assert few["data"]["rows"]["tokens"] < many["data"]["rows"]["tokens"]
    assert few["family"]["max_dynamic_patch"] == 1
    wrong = ftx(*given, "--set", "family.min_dynamic_patch=9")
    assert (wrong.code, "min_dynamic_patch 9 exceeds max_dynamic_patch 6" in wrong.out + wrong.err) == (2, True)
    unknown = ftx(*given, "--set", "family.max_dynamic_patches=1")
    assert "did you mean 'max_dynamic_patch'?" in unknown.out + unknown.err


# what is refused


@pytest.mark.parametrize(
    ("flags_of", "words"),
    [
        (["--set", "method.vision=lora"], "method.vision: family internlm2 has no such part; leave it out"),
        (
            ["--method", "full", "--set", "method.projector=frozen"],
            "method.projector: family internlm2 has no such part",
        ),
        (["--method", "projector"], "internlm2 has no such part"),
    ],
)
def test_parts_that_a_language_model_has_not(
    flags_of: list[str], words: str, ftx: Callable[..., Result], rows: Path
) -> None:
    result = ftx("plan", "--model", TINY, "--data", rows, *flags_of)
    assert (result.code, words in result.err) == (2, True), result.err


def changed(folder: Path, style: str, tmp_path: Path, change: Callable[[Path], object]) -> Path:
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    change(copy)
    return copy


def rewrite(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def without_token(folder: Path) -> None:
    for name in ("added_tokens.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(path.read_text().replace("<IMG_CONTEXT>", "<IMG_OTHER>"))


def other_projector(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    wide = {"mlp1.0.weight": 256, "mlp1.0.bias": 256}
    tensors |= {name: torch.ones(size) for name, size in wide.items()}
    tensors["mlp1.1.weight"] = torch.ones(64, 256)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def narrow_language(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["mlp1.1.weight"] = torch.ones(32, 128)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def without_tower(folder: Path) -> None:
    tensors = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("vision_model")}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_token, "has no special token <IMG_CONTEXT>, which pictures need"),
        (
            other_projector,
            "the vision tower gives 128 numbers a place (width 32, downsample_ratio 0.5), but the projector",
        ),
        (narrow_language, "the projector mlp1 gives 32 numbers a place, but the language model takes 64"),
        (without_tower, "weights of an InternVL2: model.vision_tower."),
        (lambda f: rewrite(f / "config.json", select_layer=-9), "select_layer -9 is no layer of the vision tower"),
        (lambda f: rewrite(f / "config.json", downsample_ratio=0.3), "make no whole number of features"),
        (lambda f: rewrite(f / "config.json", ps_version="v3"), "ps_version"),
        (lambda f: rewrite(f / "config.json", llm_config={}), "architectures None is none of InternLM2ForCausalLM"),
    ],
)
def test_a_model_that_does_not_fit_itself_is_refused(
    change: Callable[[Path], object],
    words: str,
    ftx: Callable[..., Result],
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    model = changed(folders["300m"], "300m", tmp_path, change)
    rows = write_picture_rows(tmp_path / "data", 3)
    result = ftx("train", "--plugin", "internvl", "--model", model, "--data", rows)
    assert result.code == 2, result.err
    assert words in result.err
    assert not Path("runs").exists()


def test_a_language_model_alone_is_refused(ftx: Callable[..., Result], rows: Path) -> None:
    result = ftx("train", "--plugin", "internvl", "--model", TINY, "--data", rows)
    assert result.code == 2
    assert "is a 'internlm2' model, a language model that sees no pictures, and no InternVL2" in result.err


def test_an_adapter_of_another_base_is_refused(
    ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = write_picture_rows(tmp_path / "data", 3)
    assert ftx("train", *flags(folders["300m"], rows, "lora", "--out", "run", "--max-steps", 1)).code == 0
    for command in (["merge", "run"], ["chat", "run", "--once", "a"]):
        result = ftx(*command, "--base", folders["6b"])
        assert result.code == 2
        assert "is not the base this adapter was trained on" in result.err


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (picture_row(0, ["0.png"]) | {"image": ["0.png", "1.png"]}, "1 images more than <image> marks"),
        (
            {**picture_row(0, ["0.png", "1.png"]), "image": ["0.png"]},
            "a question has 2 <image> marks and 1 images are left",
        ),
        (picture_row(0, "strip.png"), "is 1 x 10000 pixels, more than 200 times as long as wide; crop it"),
        (picture_row(0, "none.png"), "'none.png' is not in"),
    ],
)
def test_rows_whose_pictures_do_not_fit_are_refused(
    row: dict[str, Any], words: str, ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = write_picture_rows(tmp_path / "data", 3)
    Image.new("RGB", (1, 10_000)).save(tmp_path / "data" / "strip.png")
    with rows.open("a") as file:
        file.write(json.dumps(row) + "\n")
    result = ftx("train", *flags(folders["300m"], rows, "lora"))
    assert result.code == 3, result.err
    assert words in result.err


def test_a_picture_in_the_middle_of_a_text_stays_there(
    ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    write_picture_rows(tmp_path / "data", 1)
    row = picture_row(0, "0.png")
    row["conversations"][0]["value"] = "Look at <image> and say what it is."
    rows = tmp_path / "data" / "middle.jsonl"
    rows.write_text(json.dumps(row))
    shown = ftx("data", "show", rows, "--model", folders["300m"], "--json").events[0]
    text = "".join(part["text"] for part in shown["stretches"])
    assert "Look at <img><image><image><image><image></img> and say what it is." in text


def test_pictures_count_in_every_budget(ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path) -> None:
    """A row whose words fit and whose tiles do not is too long; a split never divides a picture."""
    rows = write_picture_rows(tmp_path / "data", 1)
    (whole,) = ftx("plan", *flags(folders["300m"], rows, "lora"), "--json").events
    length = whole["data"]["rows"]["longest"]
    short = ["--max-length", length - 1, "--overlong", "reject", "--json"]
    result = ftx("plan", *flags(folders["300m"], rows, "lora")[:-2], *short)
    assert result.code == 3
    assert f"the row has {length} tokens, too many for data.max_length {length - 1}" in result.out + result.err


def test_a_changed_picture_is_prepared_again(
    ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = write_picture_rows(tmp_path / "data", 1)
    given = ["plan", *flags(folders["300m"], rows, "lora"), "--json"]
    (before,) = ftx(*given).events
    Image.new("RGB", (300, 40)).save(tmp_path / "data" / "0.png")
    (after,) = ftx(*given).events
    assert after["data"]["rows"]["tokens"] > before["data"]["rows"]["tokens"]


def test_strung_packing_would_cut_pictures(
    ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = write_picture_rows(tmp_path / "data", 4)
    result = ftx("plan", *flags(folders["300m"], rows, "lora"), "--packing", "xtuner")
    assert result.code == 2
    assert "XTuner's way would cut through pictures; use best_fit" in result.err


def test_activations_computed_again_change_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    rows = write_picture_rows(tmp_path / "data", 6)
    found = []
    for again in (False, True):
        values = {
            "model": str(folders["300m"]),
            "data": str(rows),
            "method": {"name": "lora", "vision": "lora", "dropout": 0.1},
            "out": f"run-{again}",
            "train": {"max_steps": 2, "global_batch_size": 6, "memory": "balanced" if again else "fast"},
        }
        plan = make_plan(written(None, {key: (value, "test") for key, value in values.items()}), load_registry("none"))
        fit(plan)
        found.append(losses(plan.out))
    assert found[0] == found[1]


# transformers' own layout


@pytest.mark.parametrize("style", ["300m", "qwen2", "llama"])
def test_transformers_reads_what_is_exported(
    style: str, ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    """Plain transformers, with its own way of putting features into a row, computes the same."""
    from transformers import AutoModelForImageTextToText

    out = tmp_path / "native"
    result = ftx("export", folders[style], "--layout", "transformers", "--out", out)
    assert result.code == 0, result.err
    theirs, info = AutoModelForImageTextToText.from_pretrained(
        out, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours = FAMILY.load(folders[style], dtype=torch.float32, device="cpu", attention="eager")
    eyes = FAMILY.image_processor(folders[style])
    (places,) = eyes.lay_out([(130, 60)])
    pixels = eyes.pixels([[Image.effect_noise((130, 60), 90).convert("RGB")]])
    row = torch.tensor([[1, 5, *places, 7, 8, 9]])
    with torch.inference_mode():
        expected = ours(input_ids=row, pixel_values=pixels).logits
        found = theirs.eval()(
            input_ids=row.masked_fill(row == -200, theirs.config.image_token_id), pixel_values=pixels
        ).logits
    assert float((expected - found).abs().max()) <= 1e-5
    written_out = load_file(out / "model.safetensors")
    assert any(name.startswith("language_model.model.") for name in written_out)
    assert json.loads((out / "preprocessor_config.json").read_text())["max_patches"] == 6
    assert theirs.generation_config.eos_token_id == [631, 2]


def test_the_exported_chat_template_takes_parts(
    ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    out = tmp_path / "native"
    assert ftx("export", folders["300m"], "--layout", "transformers", "--out", out).code == 0
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.start_image_token == "<img>"
    assert len(tokenizer) <= config_of("300m")["llm_config"]["vocab_size"]
    plain = [{"role": "user", "content": "<IMG_CONTEXT>\nWhat?"}]
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    said = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in (plain, parts)]
    assert said[0] == said[1]
    assert "<|im_start|>user\n<IMG_CONTEXT>\nWhat?<|im_end|>" in said[0]


@pytest.mark.parametrize(("style", "words"), [("v1", "ps_version v1 has no place"), ("6b", "layer_norm_eps 1e-05")])
def test_what_transformers_would_compute_otherwise_is_refused(
    style: str, words: str, ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    result = ftx("export", folders[style], "--layout", "transformers", "--out", tmp_path / "native")
    assert result.code == 2
    assert words in result.err
    assert not (tmp_path / "native").exists()
    assert ftx("export", folders[style], "--layout", "official", "--out", tmp_path / "same").code == 0
    source, same = (load_file(f / "model.safetensors") for f in (folders[style], tmp_path / "same"))
    assert all(torch.equal(source[name], same[name]) for name in source)


def test_qwen2s_tokenizer_in_two_files(folders: dict[str, Path], tmp_path: Path) -> None:
    """As InternVL2-1B has it: vocab.json and merges.txt, no tokenizer.json, no beginning of text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    folder = tmp_path / "model"
    shutil.copytree(folders["qwen2"], folder)
    for name in ("tokenizer.model", "added_tokens.json", "special_tokens_map.json"):
        (folder / name).unlink()
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(["hello world, how are you, 你好 世界"], trainer)
    trained.model.save(str(folder))
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
    first = trained.get_vocab_size()
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "added_tokens_decoder": {str(first + i): {"content": s, **plain} for i, s in enumerate(specials)},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = FAMILY.tokenizer(folder)
    assert tokenizer.encode_text("hello world") == trained.encode("hello world").ids
    assert FAMILY.image_processor(folder).lay_out([(56, 56)])[0][0] == tokenizer.special("<img>")
    template = FAMILY.own_template(folder)
    assert template is not None
    row = template.prompt([Message("user", "hello")], tokenizer)
    assert row[0] == tokenizer.special("<|im_start|>")


def test_a_question_with_pictures_that_do_not_fit(
    ftx: Callable[..., Result], folders: dict[str, Path], tiny: Path, tmp_path: Path
) -> None:
    write_picture_rows(tmp_path / "data", 2)
    shown = ["--image", tmp_path / "data" / "0.png"]
    for model, question, images, words in (
        (tiny, "a", shown, "this model reads text alone"),
        (folders["300m"], "<image> <image>", shown, "the question has 2 <image> marks and 1 images"),
        (folders["300m"], "a\ufffc", shown, "U+FFFC"),
        (folders["300m"], "a", ["--image", tmp_path / "none.png"], "'none.png' is not in"),
    ):
        result = ftx("chat", model, "--once", question, *images)
        assert (result.code, words in result.err) == (2, True), result.err


def test_rows_with_pictures_are_grouped_apart_from_text(folders: dict[str, Path], tmp_path: Path) -> None:
    rows = write_picture_rows(tmp_path / "data", 32, text_every=2)
    values: dict[str, Any] = {
        "model": str(folders["300m"]),
        "data": {"sets": str(rows), "group_by_length": True},
        "method": "lora",
        "train": {"global_batch_size": 4},
    }
    plan = make_plan(written(None, {key: (value, "test") for key, value in values.items()}), load_registry("none"))
    batches = [plan.feed.rows_of(step, 4, 0) for step in range(plan.steps_per_epoch)]
    assert sorted(row for batch in batches for row in batch) == list(range(len(plan.feed)))
    kinds = [{bool(plan.feed.samples(row)[0].pictures) for row in batch} for batch in batches]
    assert sum(len(kind) == 1 for kind in kinds) >= len(batches) - 2
    assert {True} in kinds and {False} in kinds
