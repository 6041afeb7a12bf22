"""Model folders: damaged ones are refused with a sentence, whole ones load alike and are written back bit for bit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import TINY
from ftx import ModelError
from ftx.checkpoint_files import Checkpoint
from ftx.export.weights import export_weights
from ftx.plan import find_family
from ftx.plugins import load_registry
from ftx_internlm2.family import InternLM2
from ftx_internlm2.modeling import InternLM2Config, InternLM2ForCausalLM

IDS = torch.tensor([[1, 632, 453, 445, 272, 13, 421, 631, 13, 632, 442, 362, 342, 13]])
Weights = dict[str, torch.Tensor]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the tiny folder, to be damaged."""
    return Path(shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("golden.*")))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        InternLM2().inspect(folder)
    assert all(caught.value.problems)
    return str(caught.value)


def set_config(folder: Path, **changes: Any) -> None:
    edit(folder / "config.json", **changes)


def edit(path: Path, **changes: Any) -> None:
    before = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**before, **changes}), "utf-8")


def set_weights(folder: Path, weights: Weights) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def shard(folder: Path, kind: str, parts: int = 3) -> list[str]:
    """Cut the one weight file into shards; kind: "safetensors" or "bin". Returns the shards' names."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names = [f"{stem}-{i + 1:05d}-of-{parts:05d}.{kind}" for i in range(parts)]
    weight_map = {name: names[i * parts // len(weights)] for i, name in enumerate(sorted(weights))}
    for name in names:
        held = {key: weights[key].clone() for key, where in weight_map.items() if where == name}
        if kind == "safetensors":
            save_file(held, folder / name, metadata={"format": "pt"})
        else:
            torch.save(held, folder / name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    suffix = "safetensors" if kind == "safetensors" else "bin"
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index), "utf-8")
    return names


def as_bin(folder: Path, content: Any) -> Path:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return InternLM2().load(folder, dtype=dtype, device="cpu", attention="sdpa")


def logits(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return load(folder)(input_ids=IDS).logits


def stored(folder: Path) -> Weights:
    checkpoint = Checkpoint.of(folder)
    return {name: tensor for part in checkpoint.shards for name, tensor in checkpoint.read(part).items()}


def assert_same_bits(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name].contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8)), name


def export(folder: Path, out: Path, **options: Any) -> Path:
    out.mkdir()
    export_weights(load(folder).state_dict(), InternLM2(), folder, out, **options)
    return out


# -- what is refused -----------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_refused(ftx: Any, rows: Path, tmp_path: Path) -> None:
    planned = ftx("plan", "--model", tmp_path / "none", "--data", rows)
    assert (planned.code, planned.err) == (2, f"ftx: model folder {tmp_path / 'none'} does not exist\n")
    planned = ftx("plan", "--model", rows, "--data", rows)
    assert (planned.code, planned.err) == (2, f"ftx: model folder {rows} does not exist\n")


def test_a_folder_without_config_is_no_model_folder(ftx: Any, rows: Path, model: Path) -> None:
    (model / "config.json").unlink()
    assert refusal(model) == f"{model} has no config.json: it is no model folder"
    planned = ftx("plan", "--model", model, "--data", rows)
    assert (planned.code, planned.err) == (2, f"ftx: {model} has no config.json: it is no model folder\n")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "cannot be read: Expecting property name"),
        (b"", "cannot be read: Expecting value"),
        (b"\xff\xfe{", "cannot be read: 'utf-8' codec"),
        (b"[]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
    ],
)
def test_a_config_that_is_no_json_object_is_refused(content: bytes, why: str, model: Path) -> None:
    (model / "config.json").write_bytes(content)
    assert refusal(model).startswith(f"{model / 'config.json'} {why}")


@pytest.mark.parametrize("kind", ["clip", None, 3, ""])
def test_another_kind_of_model_is_refused(kind: Any, model: Path) -> None:
    set_config(model, model_type=kind)
    assert refusal(model) == f"{model} is a '{kind}' model, not internlm2; see `ftx plugins`"
    with pytest.raises(ModelError, match=f"no plugin reads model_type '{kind}' of .*; families: internlm2"):
        find_family({"name": "auto"}, model, load_registry("none"))


@pytest.mark.parametrize(
    "key", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
)
def test_a_config_that_lacks_a_size_is_refused(key: str, model: Path) -> None:
    for missing in (None, "64", 6.4, True, [], 0):
        set_config(model, **{key: missing})
        assert refusal(model).startswith(f"{model / 'config.json'}: {key}: ")


def test_all_sizes_that_lack_are_named_at_once(model: Path) -> None:
    set_config(model, vocab_size=None, hidden_size=None)
    first, second = refusal(model).splitlines()
    assert first.startswith(f"{model / 'config.json'}: vocab_size: ")
    assert second.startswith(f"{model / 'config.json'}: hidden_size: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 0},
        {"num_attention_heads": 5},
        {"num_attention_heads": -4},
        {"num_key_value_heads": 3},
        {"num_key_value_heads": "two"},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 2},
        {"num_hidden_layers": 4},
        {"hidden_size": -1},
        {"vocab_size": 632},
        {"max_position_embeddings": None},
        {"max_position_embeddings": "2048"},
        {"rms_norm_eps": None},
        {"rms_norm_eps": "1e-5"},
        {"rope_theta": "10000"},
        {"rope_scaling": {"type": "nope", "factor": 2.0}},
        {"rope_scaling": {"type": "linear", "factor": "2.0"}},
        {"rope_scaling": {"type": "linear"}},
        {"rope_scaling": 3},
        {"rope_theta": "high"},
        {"hidden_act": "nope"},
        {"bias": True},
    ],
    ids=str,
)
def test_a_config_that_makes_no_such_model_is_refused(changes: dict[str, Any], model: Path) -> None:
    set_config(model, **changes)
    assert refusal(model)


def test_a_folder_without_weights_is_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()
    expected = "holds no weights: neither model.safetensors nor pytorch_model.bin nor an index of shards"
    assert refusal(model) == f"{model} {expected}"


def test_missing_and_extra_weights_are_both_named(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.layers.9.attention.wo.weight"] = weights.pop("model.layers.1.attention.wo.weight")
    weights.pop("output.weight")
    set_weights(model, weights)
    assert refusal(model) == (
        f"{model} lacks 2 weights of an InternLM2, such as model.layers.1.attention.wo.weight\n"
        f"{model} holds 1 weights that no InternLM2 has, such as model.layers.9.attention.wo.weight"
    )


def test_a_weight_of_another_shape_is_refused(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(63)
    set_weights(model, weights)
    assert refusal(model) == "model.norm.weight has shape (63,), but config.json makes it (64,)"


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_a_cut_off_weight_file_is_refused(keep: int, model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert refusal(model).startswith(f"{path} is truncated")


def test_a_weight_file_that_goes_on_too_long_is_refused(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    assert "fetch it again" in refusal(model)


def test_a_cut_off_shard_is_refused_naming_the_shard(model: Path) -> None:
    middle = model / shard(model, "safetensors")[1]
    middle.write_bytes(middle.read_bytes()[:-7])
    assert refusal(model).startswith(f"{middle} is truncated: ")


ENTRY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"garbage!",
        b"\xff\xfe\xfd",
        b"null",
        b"[]",
        b"7",
        b'{"a": 3}',
        b'{"a": {}}',
        *(json.dumps({"a": {k: v for k, v in ENTRY.items() if k != lost}}).encode() for lost in ENTRY),
        json.dumps({"a": {**ENTRY, "data_offsets": [0]}}).encode(),
        json.dumps({"a": {**ENTRY, "data_offsets": ["x", "y"]}}).encode(),
        json.dumps({"a": {**ENTRY, "shape": 7}}).encode(),
    ],
    ids=repr,
)
def test_a_garbage_header_is_refused(header: bytes, model: Path) -> None:
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert refusal(model) == f"{model / 'model.safetensors'} has a broken safetensors header; fetch it again"


def test_a_header_longer_than_the_file_is_not_read(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\xff" * 64)
    assert "is truncated or no safetensors file" in refusal(model)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_index_that_names_a_missing_shard_is_refused(kind: str, model: Path) -> None:
    gone = shard(model, kind)[2]
    (model / gone).unlink()
    assert refusal(model) == f"{model} lacks the shard {gone} that its index names; fetch it again"


@pytest.mark.parametrize("name", ["../escape.safetensors", "/etc/passwd", "deeper/../../escape.safetensors", ".."])
def test_an_index_that_leaves_the_folder_is_refused(name: str, model: Path) -> None:
    shard(model, "safetensors")
    shutil.copy(model / "model-00001-of-00003.safetensors", model.parent / "escape.safetensors")
    index = json.loads((model / "model.safetensors.index.json").read_text("utf-8"))
    index["weight_map"]["model.norm.weight"] = name
    (model / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    assert name in refusal(model)


@pytest.mark.parametrize("index", [{}, {"weight_map": None}, {"weight_map": []}, {"weight_map": {}}])
def test_an_index_without_a_map_is_refused(index: dict[str, Any], model: Path) -> None:
    shard(model, "safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    assert refusal(model)


def test_a_weight_in_two_shards_is_refused(model: Path) -> None:
    first, second, _ = shard(model, "safetensors")
    twice = next(iter(load_file(model / first)))
    save_file({**load_file(model / second), twice: load_file(model / first)[twice]}, model / second)
    assert refusal(model) == f"tensor '{twice}' is stored twice: in {first} and in {second}"


class _Code:
    """A pickle that runs a command when it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_pickle_with_code_is_refused_and_not_run(
    sharded: bool, ftx: Any, rows: Path, model: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    poison = {**load_file(model / "model.safetensors"), "model.norm.weight": _Code(f"touch {ran}")}
    if sharded:
        path = model / shard(model, "bin")[1]
        torch.save(poison, path)
    else:
        path = as_bin(model, poison)
    assert refusal(model).startswith(f"{path} cannot be read as plain weights: ")
    planned = ftx("plan", "--model", model, "--data", rows)
    assert (planned.code, planned.out) == (2, "")
    with pytest.raises(Exception, match=r"(?s)."):
        load(model)
    assert not ran.exists()
    torch.load(path, weights_only=False)
    assert ran.exists()  # the poison was real


@pytest.mark.parametrize("content", [[1], {"state_dict": {}}, {"epoch": 1}, {"model.norm.weight": "x"}, 7], ids=str)
def test_a_bin_file_that_holds_no_weights_is_refused(content: Any, model: Path) -> None:
    path = as_bin(model, content)
    assert refusal(model).startswith(f"{path} ")


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_a_bin_file_that_is_none_is_refused(content: bytes, model: Path) -> None:
    path = as_bin(model, {})
    path.write_bytes(content)
    assert refusal(model).startswith(f"{path} ")


def test_a_cut_off_bin_file_is_refused(model: Path) -> None:
    path = as_bin(model, load_file(model / "model.safetensors"))
    path.write_bytes(path.read_bytes()[:-500])
    assert refusal(model) == f"{path} is truncated or no PyTorch weight file; fetch it again"


def test_a_folder_without_tokenizer_is_refused(ftx: Any, rows: Path, model: Path) -> None:
    (model / "tokenizer.model").unlink()
    planned = ftx("plan", "--model", model, "--data", rows)
    expected = f"ftx: {model} has no tokenizer: neither tokenizer.json nor tokenizer.model\n"
    assert (planned.code, planned.err) == (2, expected)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.model", b""),
        ("tokenizer.model", b"garbage" * 10),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[]"),
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b"[]"),
    ],
)
def test_a_damaged_tokenizer_is_refused(name: str, content: bytes, model: Path) -> None:
    (model / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"the tokenizer of {model} cannot be read"):
        InternLM2().tokenizer(model)


def test_a_tokenizer_with_more_words_than_the_model_is_refused(ftx: Any, rows: Path, model: Path) -> None:
    """Ids beyond the embedding would end training in the middle of torch."""
    weights = load_file(model / "model.safetensors")
    for name in ("model.tok_embeddings.weight", "output.weight"):
        weights[name] = weights[name][:600].clone()
    set_weights(model, weights)
    set_config(model, vocab_size=600)
    assert InternLM2().inspect(model).vocab_size == 600
    planned = ftx("plan", "--model", model, "--data", rows)
    assert planned.code == 2
    assert "600" in planned.err


@pytest.mark.parametrize("content", [{"eos_token_id": "x"}, {"eos_token_id": ["x"]}, {"eos_token_id": {}}, "{", []])
def test_a_damaged_generation_config_is_refused(content: Any, ftx: Any, rows: Path, model: Path) -> None:
    path = model / "generation_config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    planned = ftx("plan", "--model", model, "--data", rows)
    assert planned.code == 2
    assert str(path) in planned.err


# -- what is read --------------------------------------------------------------------------------------------------


def test_inspect_tells_what_is_stored(model: Path) -> None:
    facts = InternLM2().inspect(model)
    weights = load_file(model / "model.safetensors")
    assert facts.parameters == sum(t.numel() for t in weights.values()) == load(model).num_parameters()
    assert (facts.architecture, facts.dtype) == ("InternLM2ForCausalLM", "float32")
    assert facts.size_bytes == (model / "model.safetensors").stat().st_size
    assert (facts.max_positions, facts.vocab_size) == (2048, 633)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_inspect_and_load_as_the_one_file_does(kind: str, model: Path) -> None:
    before, facts = logits(model), InternLM2().inspect(model)
    names = shard(model, kind)
    assert Checkpoint.of(model).shards == tuple(names)
    after = InternLM2().inspect(model)
    assert (after.parameters, after.dtype) == (facts.parameters, facts.dtype)
    assert after.size_bytes == sum((model / name).stat().st_size for name in names)
    assert torch.equal(logits(model), before)


def test_one_bin_file_inspects_and_loads_as_safetensors_do(model: Path) -> None:
    before, facts = logits(model), InternLM2().inspect(model)
    as_bin(model, load_file(model / "model.safetensors"))
    after = InternLM2().inspect(model)
    assert (after.parameters, after.dtype, after.vocab_size) == (facts.parameters, facts.dtype, facts.vocab_size)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_what_is_inspected_is_what_is_loaded(kind: str, model: Path, tmp_path: Path) -> None:
    """transformers takes the one file before an index beside it; a mix of two downloads holds both."""
    other = Path(shutil.copytree(model, tmp_path / "other"))
    set_weights(other, {name: tensor + 1 for name, tensor in load_file(model / "model.safetensors").items()})
    names = shard(other, kind)
    for name in (*names, f"{'model' if kind == 'safetensors' else 'pytorch_model'}.{kind}.index.json"):
        shutil.copy(other / name, model / name)
    inspected = stored(model)["model.norm.weight"]
    assert torch.equal(load(model).model.norm.weight.detach(), inspected)


def test_old_rotary_buffers_are_passed_over(model: Path, tmp_path: Path) -> None:
    before = logits(model)
    weights = load_file(model / "model.safetensors")
    buffers = {f"model.layers.{i}.attention.rotary_emb.inv_freq": torch.ones(8) for i in range(3)}
    set_weights(model, {**weights, **buffers})
    InternLM2().inspect(model)
    assert torch.equal(logits(model), before)
    assert_same_bits(stored(export(model, tmp_path / "out")), weights)


def test_auto_map_is_never_followed_and_noted_once(ftx: Any, rows: Path, model: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for name in (
        "configuration_internlm2",
        "modeling_internlm2",
        "tokenization_internlm2",
        "tokenization_internlm2_fast",
    ):
        (model / f"{name}.py").write_text(f"open({str(ran)!r}, 'w')\nraise SystemExit\n", "utf-8")
    planned = ftx("plan", "--model", model, "--data", rows, "--json")
    (event,) = planned.events
    assert event["notes"] == ["auto_map in config.json is ignored: ftx runs no code from a model folder"]
    assert load(model).num_parameters() > 0
    assert not ran.exists()
    assert json.dumps(event).count("auto_map in config.json") == 1


def test_without_auto_map_nothing_is_noted(ftx: Any, rows: Path, model: Path) -> None:
    config = json.loads((model / "config.json").read_text("utf-8"))
    del config["auto_map"]
    (model / "config.json").write_text(json.dumps(config), "utf-8")
    assert InternLM2().inspect(model).notes == ()
    assert ftx("plan", "--model", model, "--data", rows, "--json").events[0]["notes"] == []


# -- what is written -----------------------------------------------------------------------------------------------

VARIANTS: dict[str, tuple[dict[str, Any], torch.dtype]] = {
    "gqa": ({}, torch.float32),
    "mha": ({"num_key_value_heads": 4}, torch.float32),
    "mha, unsaid": ({"num_key_value_heads": None}, torch.float32),
    "mqa": ({"num_key_value_heads": 1}, torch.float32),
    "bias": ({"bias": True}, torch.float32),
    "bfloat16": ({}, torch.bfloat16),
    "float16": ({}, torch.float16),
    "tied": ({"tie_word_embeddings": True}, torch.float32),
    "bias, mha, bfloat16": ({"bias": True, "num_key_value_heads": 4}, torch.bfloat16),
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, model: Path) -> Path:
    """The tiny folder as another InternLM2, with random weights."""
    changes, dtype = VARIANTS[request.param]
    set_config(model, **changes, torch_dtype=str(dtype).removeprefix("torch."))
    official = (model / "config.json").read_bytes()
    config = {k: v for k, v in json.loads(official).items() if k != "auto_map"}
    torch.manual_seed(0)
    made = InternLM2ForCausalLM(InternLM2Config(**config)).to(dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    (model / "model.safetensors").unlink()
    made.save_pretrained(model)
    (model / "config.json").write_bytes(official)
    return model


def test_every_variant_is_stored_in_the_official_layout(variant: Path) -> None:
    """Proves that the folders the next tests start from are InternLM2's own."""
    names = set(stored(variant))
    config = json.loads((variant / "config.json").read_text("utf-8"))
    assert "model.tok_embeddings.weight" in names
    assert ("output.weight" in names) != config["tie_word_embeddings"]
    assert ("model.layers.0.attention.wqkv.bias" in names) == config["bias"]
    assert not [name for name in names if "q_proj" in name or "lm_head" in name]
    assert InternLM2().inspect(variant).dtype == config["torch_dtype"]


def test_every_variant_comes_out_bit_for_bit(variant: Path, tmp_path: Path) -> None:
    before = stored(variant)
    out = export(variant, tmp_path / "out")
    assert [path.name for path in out.iterdir()] == ["model.safetensors"]
    assert_same_bits(stored(out), before)
    for path in (*variant.glob("*.json"), variant / "tokenizer.model"):
        shutil.copy(path, out / path.name)
    assert torch.equal(logits(out), logits(variant))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_come_out_bit_for_bit_and_sharded_alike(kind: str, model: Path, tmp_path: Path) -> None:
    names = shard(model, kind)
    before = stored(model)
    out = export(model, tmp_path / "out")
    expected = [name.replace("pytorch_model", "model").replace(".bin", ".safetensors") for name in names]
    assert sorted(path.name for path in out.iterdir()) == [*expected, "model.safetensors.index.json"]
    assert_same_bits(stored(out), before)
    index = json.loads((out / "model.safetensors.index.json").read_text("utf-8"))
    assert index["weight_map"] == {name: info.shard for name, info in sorted(Checkpoint.of(out).tensors.items())}
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in before.values())


def test_bfloat16_trained_in_float32_comes_out_in_the_same_bits(model: Path, tmp_path: Path) -> None:
    weights = {name: tensor.bfloat16() for name, tensor in load_file(model / "model.safetensors").items()}
    set_weights(model, weights)
    assert {p.dtype for p in load(model).parameters()} == {torch.float32}
    assert_same_bits(stored(export(model, tmp_path / "out")), weights)


def test_a_checkpoint_keeps_the_precision_of_training(model: Path, tmp_path: Path) -> None:
    weights = {name: tensor.bfloat16() for name, tensor in load_file(model / "model.safetensors").items()}
    set_weights(model, weights)
    kept = stored(export(model, tmp_path / "out", keep_dtype=True))
    assert_same_bits(kept, {name: tensor.float() for name, tensor in weights.items()})


def test_each_weight_keeps_its_own_dtype(model: Path, tmp_path: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights = {name: t if "norm" in name else t.half() for name, t in weights.items()}
    set_weights(model, weights)
    assert InternLM2().inspect(model).dtype == "float16+float32"
    assert_same_bits(stored(export(model, tmp_path / "out")), weights)


def test_what_was_trained_is_what_is_written(model: Path, tmp_path: Path) -> None:
    tuned = load(model)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.mul_(1.5)
    (tmp_path / "out").mkdir()
    export_weights(tuned.state_dict(), InternLM2(), model, tmp_path / "out")
    assert_same_bits(stored(tmp_path / "out"), {name: t * 1.5 for name, t in stored(model).items()})


def test_a_model_that_lacks_a_parameter_is_not_written(model: Path, tmp_path: Path) -> None:
    native = load(model).state_dict()
    del native["model.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(ModelError, match=r"no parameter model\.layers\.1\.self_attn\.k_proj\.weight, which .*wqkv"):
        export_weights(native, InternLM2(), model, tmp_path)
