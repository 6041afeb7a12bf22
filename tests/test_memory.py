"""What a step takes is told beforehand, and kept to when a number is given."""

from __future__ import annotations

import datetime
import importlib
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftx.errors import RecipeError
from ftx.train.fit import fit
from ftx.train.memory import Decoder, chosen, decoder_of, expected
from test_natives import make
from test_train import plan_for

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "train_gpu.json"
SHAPES = {"1.8B": (24, 2048, 1024, 8192), "7B": (32, 4096, 1024, 14336)}


def decoder(name: str) -> Decoder:
    layers, width, kv, inner = SHAPES[name]
    attention = {"q_proj": (width, width), "k_proj": (kv, width), "v_proj": (kv, width), "o_proj": (width, width)}
    mlp = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
    return Decoder(layers, {**attention, **mlp}, 92544, tied=False)


def plan_of(method: str, rows: int, tokens: int, memory: Any = "fast", name: str = "1.8B", dtype: str = "auto") -> Any:
    train = SimpleNamespace(memory=memory, global_batch_size=rows, dtype=dtype, attention="auto", adapters="auto")
    train.base = None
    recipe = SimpleNamespace(train=train, data=SimpleNamespace(max_length=tokens, packing="best_fit"))
    options = {"rank": 64, "targets": None} if method != "full" else {}
    options |= {"bits": 4} if method == "qlora" else {}
    produces = "model" if method == "full" else "adapter"
    return SimpleNamespace(
        method=SimpleNamespace(name=method, produces=produces, **options),
        micro_batch_size=rows,
        recipe=recipe,
        feed=SimpleNamespace(endless=False),
        facts=SimpleNamespace(architecture="LlamaForCausalLM"),
        family=None,
        images=None,
        decoder=decoder(name),
    )


def recorded() -> list[dict[str, Any]]:
    rows = json.loads(RESULTS.read_text())["rows"]
    return [row for row in rows if row["name"].startswith("ftx") and "real" not in row["sequence"]]


@pytest.mark.parametrize("row", recorded(), ids=lambda row: f"{row['name']} {row['model']} {row['method']}")
def test_what_was_measured_is_told_within_a_tenth(row: dict[str, Any]) -> None:
    count, tokens = map(int, row["sequence"].split("x"))
    mode: Any = next((mode for mode in ("balanced", "small") if mode in row["name"]), "fast")
    plan = plan_of(row["method"], count, tokens)
    plan.recipe.train.base = "fp8" if "fp8" in row["name"] else None
    plan.method.quantize_head = "head in 4 bits" in row["name"]
    told = expected(plan, decoder(row["model"]), mode).gib
    assert told == pytest.approx(row["peak_gib"], rel=0.1)


def test_bits_tell_what_frozen_weights_take() -> None:
    plans = [plan_of("lora", 4, 2048), *(plan_of("qlora", 4, 2048) for _ in range(2))]
    plans[1].method.bits = 8
    lora, eight, four = (expected(plan, plan.decoder, "fast").bytes["weights"] for plan in plans)
    in_layers = decoder("1.8B").in_layers
    assert lora - eight == pytest.approx(in_layers, rel=0.01)
    assert eight - four == pytest.approx(in_layers / 2, rel=0.05)
    plans[2].method.quantize_head = True
    head = decoder("1.8B").embedding
    for mode, less in (("fast", 1.484 + 1), ("small", 1.484)):  # the embedding waits in host memory
        plan: Any = plan_of("qlora", 4, 2048)
        saved = [expected(one, one.decoder, mode).bytes["weights"] for one in (plan, plans[2])]
        assert saved[0] - saved[1] == pytest.approx(less * head, rel=0.01)


def test_adapters_behind_8_bit_weights_are_counted() -> None:
    """One H200, 7B, 4 x 2048: 45.42 GiB at the peak, of which 0.44 are the columns and what they are met by."""
    plan = plan_of("lora", 4, 2048)
    without = expected(plan, decoder("7B"), "fast").gib or 0
    plan.recipe.train.base = "fp8"
    assert expected(plan, decoder("7B"), "fast").gib == pytest.approx(without + 0.44, abs=0.03)
    biased = replace(decoder("7B"), biased=frozenset({"q_proj"}))  # as Qwen2, whose q, k and v fp8 leaves as they are
    assert expected(plan, biased, "fast").gib == pytest.approx(without + 0.44 - 0.15, abs=0.03)
    plan.method.dropout = 0.1  # then they are added apart
    assert expected(plan, decoder("7B"), "fast").gib == without


def test_results_tell_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RESULTS.parents[1]))
    bench = importlib.import_module("train_gpu")
    monkeypatch.setattr(bench, "ceiling", lambda: 790.64e12)
    monkeypatch.setattr(bench, "versions", lambda: {"gpu": "none"})
    monkeypatch.setattr(bench, "write_model", lambda *_: None)
    monkeypatch.setattr(bench, "measured", lambda row, *_: {"name": row.name})
    monkeypatch.setattr(bench, "commit", lambda: None)
    monkeypatch.setenv("FTX_CACHE", "")
    flags = ["--rows", "ftx|1.8B|lora|4x*", "--place", str(tmp_path), "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr("sys.argv", ["train_gpu.py", *flags])
    bench.main()
    made = json.loads((tmp_path / "out.json").read_text())
    assert shlex.split(made["command"]) == ["python", "benchmarks/train_gpu.py", *flags]
    today = datetime.date.today().isoformat()
    assert made["rows"] == [{"name": "ftx", "ceiling_tflops": 790.6, "commit": None, "date": today}]


@pytest.mark.parametrize(
    ("method", "mode", "rows", "gib"),
    # peaks on an H200 in float32, less a copy of what is trained that was made then
    [
        ("lora", "fast", 4, 32.8),
        ("lora", "balanced", 4, 9.6),
        ("full", "fast", 4, 46.9),
        ("qlora", "fast", 4, 27.9),
        ("qlora", "small", 1, 2.58),
    ],
)
def test_numbers_of_32_bits_are_told(method: str, mode: Any, rows: int, gib: float) -> None:
    told = expected(plan_of(method, rows, 2048, dtype="float32"), decoder("1.8B"), mode).gib
    assert told == pytest.approx(gib, rel=0.06)


def test_a_number_is_kept_to_by_the_fastest_way() -> None:
    ways = [chosen(plan_of("lora", 4, 2048, float(gib)), None) for gib in (40, 12, 8, 5.7)]
    assert [way.mode for way in ways] == ["fast", "fast", "fast", "balanced"]
    assert [way.share for way in ways] == sorted(way.share for way in ways)
    assert ways[0].share == 0
    assert all((way.gib or 0) <= gib for way, gib in zip(ways, (40, 12, 8, 5.7), strict=True))
    with pytest.raises(RecipeError, match=r"train\.memory: 2\.0 GiB do not hold a step; it takes \d\.\d GiB at least"):
        chosen(plan_of("lora", 4, 2048, 2.0), None)


def test_auto_takes_the_fastest_that_fits_and_never_rounds_moments() -> None:
    for gib, mode in ((140, "fast"), (24, "balanced"), (8, "balanced")):
        assert chosen(plan_of("lora", 1, 2048, "auto", "7B"), gib << 30).mode in ("fast", mode)
    assert chosen(plan_of("lora", 1, 2048, "auto", "7B"), None).mode == "fast"


def test_the_plan_tells_it(ftx: Any, tiny: Path, rows: Path) -> None:
    plan = ftx("plan", "--model", tiny, "--data", rows, "--json").events[0]
    assert list(plan["expected_gpu_gib"]) == ["fast", "balanced", "small"]
    refused = ftx("plan", "--model", tiny, "--data", rows, "--set", "train.memory=0.001")
    assert refused.code == 2
    least = re.search(r"train\.memory: 0\.001 GiB do not hold a step; it takes (0\.\d+) GiB at least", refused.err)
    assert least and ftx("plan", "--model", tiny, "--data", rows, "--set", f"train.memory={least[1]}").code == 0
    assert ftx("plan", "--model", tiny, "--data", rows, "--set", "train.memory=2").code == 0


def test_rows_strung_together_are_as_long_as_they_may_be(ftx: Any, tiny: Path, rows: Path) -> None:
    told = [
        ftx("plan", "--model", tiny, "--data", rows, "--set", f"data.packing={packing}", "--json").events[0]
        for packing in ("none", "best_fit", "xtuner")
    ]
    none, packed, strung = (one["expected_gpu_gib"]["fast"] for one in told)
    assert none < packed == strung


@pytest.mark.parametrize(
    "setting", ["train.attention=sdpa", "train.attention=eager", "train.adapters=plain", "method.targets=[lm_head]"]
)
def test_what_another_way_takes_is_not_told(ftx: Any, tiny: Path, rows: Path, setting: str) -> None:
    flags = ["plan", "--model", tiny, "--data", rows, "--set", setting]
    assert ftx(*flags, "--json").events[0]["expected_gpu_gib"] == {}
    refused = ftx(*flags, "--set", "train.memory=2")
    assert refused.code == 2
    assert "train.memory: what this run takes cannot be told beforehand" in refused.err


def test_auto_sees_what_cannot_fit_where_no_more_is_told() -> None:
    plan = plan_of("lora", 4, 2048, "auto")
    plan.recipe.train.attention = "sdpa"
    way = chosen(plan, 8 << 30)
    assert (way.mode, way.gib) == ("fast", None)
    assert way.share > 0


def test_gib_are_a_gpus(ftx: Any, tiny: Path, rows: Path) -> None:
    flags = ["plan", "--model", tiny, "--data", rows, "--set", "train.memory=2", "--json"]
    if not torch.cuda.is_available():
        assert "train.memory: the GiB are a GPU's, and torch finds none here" in ftx(*flags).events[0]["notes"]
    refused = ftx(*flags, "--set", "train.device=cpu")
    assert refused.code == 2
    assert "train.memory: a number of GiB is kept to on a GPU, not beside train.device cpu" in refused.err


def test_sizes_are_read_off_the_checkpoint(tiny: Path, rows: Path) -> None:
    plan = plan_for(tiny, rows, tiny.parent / "never")
    found = decoder_of(plan)
    assert found is not None
    assert found.in_layers + 2 * found.embedding == pytest.approx(plan.facts.parameters, rel=0.01)
    assert not found.biased


def test_biases_are_read_off_the_checkpoint(rows: Path, tmp_path: Path) -> None:
    plan = plan_for(make("qwen2", tmp_path / "qwen2"), rows, tmp_path / "never")
    assert plan.decoder is not None
    assert plan.decoder.biased == {"q_proj", "k_proj", "v_proj"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["train.base=fp8"], "train.base: fp8 needs a GPU that multiplies in it"),
        (["train.base=fp8", "train.adapters=folded"], "train.base: fp8 goes with method lora, and with train.adapters"),
        (["train.base=fp8", "train.dtype=float32"], "train.base: fp8 stands beside bfloat16 on a GPU"),
        (["train.base=fp8", "method=full"], "train.base: fp8 goes with method lora"),
        (["method=qlora", "method.bits=8", "method.double_quantization=true"], "method.double_quantization: 8 bits"),
    ],
)
def test_what_cannot_be_had_is_refused(ftx: Any, tiny: Path, rows: Path, settings: list[str], sentence: str) -> None:
    flags = [part for setting in settings for part in ("--set", setting)]
    refused = ftx("plan", "--model", tiny, "--data", rows, *flags)
    assert refused.code == 2
    assert sentence in refused.err


@pytest.mark.parametrize("given", ["tiny", "12GiB", "true", "null", "'12'", "6,5", "[fast]", ".inf", ".nan", "0", "-1"])
def test_what_is_no_memory_is_refused_in_one_sentence(ftx: Any, tiny: Path, rows: Path, given: str) -> None:
    refused = ftx("plan", "--model", tiny, "--data", rows, "--set", f"train.memory={given}")
    assert refused.code == 2
    assert "train.memory (--set): is fast, balanced, small, auto, or a number of GiB above 0 (given: " in refused.err
    assert refused.err.count("train.memory") == 1


def test_moments_of_8_bits_go_on_where_they_stood(tiny: Path, rows: Path, tmp_path: Path) -> None:
    """Bit for bit, as those of 32 do; and a run that began with others does not go on with them."""
    options = {"train__max_steps": 4, "train__save_every": 2, "method__name": "lora"}

    def plan(out: str, memory: str) -> Any:
        return plan_for(tiny, rows, tmp_path / out, train__memory=memory, **options)

    fit(plan("whole", "small"))
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "adapter")
    fit(plan("parts", "small"), resume=str(tmp_path / "parts" / "checkpoints" / "step-00000002"))
    for name in ("adapter_model.safetensors",):
        whole, parts = (load_file(tmp_path / out / "adapter" / name) for out in ("whole", "parts"))
        assert all(torch.equal(parts[key], tensor) for key, tensor in whole.items())
    with pytest.raises(RecipeError, match="moments"):
        fit(plan("parts", "fast"), resume=str(tmp_path / "parts" / "checkpoints" / "step-00000002"))


def test_checkpoints_made_before_go_on_and_another_base_is_noticed(tiny: Path, rows: Path, tmp_path: Path) -> None:
    options = {"method": {"name": "qlora"}, "train__max_steps": 2, "train__save_every": 1}
    fit(plan_for(tiny, rows, tmp_path / "run", **options))
    state = tmp_path / "run" / "checkpoints" / "step-00000001" / "state.json"
    then = json.loads(state.read_text())
    for name in ("products", "moments"):
        del then["identity"][name]
    for name in ("bits", "quantize_head"):
        del then["identity"]["method"][name]
    state.write_text(json.dumps(then))
    fit(plan_for(tiny, rows, tmp_path / "run", **options), resume=str(state.parent))
    then["identity"]["base"] = "another"
    state.write_text(json.dumps(then))
    with pytest.raises(RecipeError, match="base was another"):
        fit(plan_for(tiny, rows, tmp_path / "run", **options), resume=str(state.parent))


@pytest.mark.parametrize("kind", ["deepseek_v2", "qwen2_moe", "mixtral", "gemma2", "cohere", "granite"])
def test_another_kind_of_decoder_is_not_counted(ftx: Any, rows: Path, tmp_path: Path, kind: str) -> None:
    from test_experts import make

    folder = make(kind, tmp_path / "model")
    assert ftx("plan", "--model", folder, "--data", rows, "--json").events[0]["expected_gpu_gib"] == {}
