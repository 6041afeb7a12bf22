"""Packing: every sample once and whole, rows nearly full, and no sample sees another."""

from __future__ import annotations

import json
import random
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import FIXTURES, chat, write_rows
from ftx import Conversation
from ftx.data.collate import collate
from ftx.data.encode import Encoder
from ftx.data.feed import Samples, make_feed
from ftx.data.mix import Share, epoch_samples
from ftx.data.named import named_templates
from ftx.data.pack import best_fit, fill, strung, xtuner_rows
from ftx.data.template import Encoded
from ftx.plan import Plan
from ftx.run import losses
from ftx.train.fit import fit
from ftx_internlm2.family import InternLM2
from ftx_sources.files import Files
from ftx_sources.oasst import OasstTree, answered_ways
from test_train import plan_for

DYNAMIC = FIXTURES / "golden" / "internlm2_dynamic"


def log_normal(count: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed)
    return [min(4096, max(8, int(draw.lognormvariate(5.0, 1.0)))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_every_sample_stands_in_one_row_and_no_row_overflows(seed: int) -> None:
    lengths = log_normal(2000, seed)
    rows = best_fit(lengths, 4096, seed)
    assert sorted(chain.from_iterable(rows)) == list(range(2000))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 4096


def test_rows_are_nearly_full() -> None:
    lengths = log_normal(50_000)
    assert fill(lengths, best_fit(lengths, 4096), 4096) > 0.999


def test_the_leaves_of_real_trees_fill_their_rows() -> None:
    """15 Open-Assistant trees have 79 leaves; the 71 conversations that differ are fewer tokens than fill 5 rows."""
    tokenizer = InternLM2().tokenizer(FIXTURES / "data" / "internlm2_tokenizer")
    encoder = Encoder(named_templates()["internlm2_chat"], tokenizer)
    trees = [r.value for r in Files(path=str(FIXTURES / "data" / "oasst_samples" / "en_tree_15.jsonl")).records()]
    ways = [Conversation.of(way) for tree in trees for way in answered_ways(tree)]
    lengths = [len(row.ids) for row in encoder.rows(ways) if isinstance(row, Encoded)]
    assert (len(lengths), sum(len(OasstTree().parse_all(tree)) for tree in trees)) == (79, 71)
    assert fill(lengths, best_fit(lengths, 4096), 4096) >= 0.99


def test_the_result_depends_on_lengths_and_seed_alone() -> None:
    lengths = log_normal(500)
    assert list(best_fit(lengths, 4096, 1)) == list(best_fit(lengths, 4096, 1))
    assert list(best_fit(lengths, 4096, 1)) != list(best_fit(lengths, 4096, 2))


def test_a_sample_longer_than_a_row_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="a sample of 9 tokens does not fit into a row of 8"):
        best_fit([3, 9], 8)
    assert list(best_fit([], 8)) == []
    assert list(best_fit([8, 8], 8)) in ([[0], [1]], [[1], [0]])
    with pytest.raises(IndexError):
        best_fit([8, 8], 8)[2]


@pytest.mark.parametrize("processes", [1, 3, 32])
@pytest.mark.parametrize("count", [1, 5, 999, 2500])
def test_strung_rows_are_where_xtuners_packer_cuts(count: int, processes: int) -> None:
    lengths = [random.Random(f"{count}{i}").randint(1, 40) for i in range(count)]
    starts = [sum(lengths[:i]) for i in range(count)]
    ids = [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=True)]
    packed = xtuner_rows(ids, ids, 64, processes=processes)
    assert [list(range(a, b)) for a, b in strung(lengths, 64, processes)] == packed.ids


def planned(model: Path, data: Path, out: Path, packing: str, **options: Any) -> Plan:
    options = {"data__packing": packing, "train__max_steps": 1, "train__global_batch_size": 64, **options}
    return plan_for(model, data, out, **options)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model", [FIXTURES / "golden" / "internlm2_base", DYNAMIC], ids=lambda path: path.name)
def test_packed_samples_do_not_see_each_other(model: Path, attention: str, tmp_path: Path) -> None:
    """The whole set in one step: packed or not, the same loss and the same adapter come out."""
    from safetensors.torch import load_file

    found = {}
    for packing in ("none", "best_fit"):
        plan = planned(model, write_rows(tmp_path / "rows.jsonl", 12), tmp_path / packing, packing)
        plan.recipe.train.attention = attention  # type: ignore[assignment]
        fit(plan)
        weights = load_file(tmp_path / packing / "adapter" / "adapter_model.safetensors")
        found[packing] = (losses(tmp_path / packing)[1], weights)
    assert found["best_fit"][0] == pytest.approx(found["none"][0], abs=2e-6)
    for name, tensor in found["none"][1].items():
        torch.testing.assert_close(found["best_fit"][1][name], tensor, atol=2e-5, rtol=1e-4)


def test_a_row_beside_a_long_one_is_as_it_is_alone(tmp_path: Path) -> None:
    """Under dynamic rope beyond the trained length, where a shared base would change the short row."""
    rows = [chat("a", "b"), chat("Who are you? " * 12, "I am a small assistant.")]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    plan = planned(DYNAMIC, data, tmp_path / "run", "none")
    held = [plan.feed.samples(i) for i in range(2)]
    assert min(len(one[0]) for one in held) < 24 < max(len(one[0]) for one in held)
    model = plan.family.load(DYNAMIC, dtype=torch.float32, device="cpu", attention="sdpa")
    padded = model(**collate(held, plan.tokenizer.pad_id)).logits
    packed = model(**collate([[*held[0], *held[1]]], plan.tokenizer.pad_id, isolated=True), use_cache=False).logits
    at = 0
    for i, one in enumerate(held):
        alone = model(input_ids=torch.from_numpy(one[0].ids.astype("int64"))[None]).logits[0]
        torch.testing.assert_close(padded[i, : len(one[0])], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(packed[0, at : at + len(one[0])], alone, atol=1e-5, rtol=1e-5)
        at += len(one[0])


def test_packing_is_in_the_plan_and_counts_rows(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 60)
    flags = ["--model", tiny, "--data", data, "--set", "data.packing=best_fit", "--max-length", 256, "--json"]
    (event,) = ftx("plan", *flags).events
    told = event["data"]["packing"]
    assert told["name"] == "best_fit"
    assert told["rows"] < 20
    assert 0.8 < told["fill"] <= 1
    assert event["data"]["rows"]["samples"] == 60
    assert ftx("train", *flags, "--max-steps", 2).code == 0


def test_xtuners_way_of_packing_trains(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 60)
    flags = ["--model", tiny, "--data", data, "--set", "data.packing=xtuner", "--max-length", 64, "--json"]
    flags += ["--set", "data.overlong=cut"]
    result = ftx("train", *flags, "--max-steps", 2)
    assert result.code == 0, result.err
    told = json.loads(Path("runs/rows-lora/plan.json").read_text("utf-8"))["data"]
    assert told["packing"]["rows"] == told["rows"]["tokens"] // 64


def test_a_packed_run_resumes_bit_for_bit(tiny: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 40)
    options = {"train__max_steps": 4, "train__save_every": 2, "data__max_length": 128, "train__global_batch_size": 2}
    whole, again = tmp_path / "whole", tmp_path / "again"
    fit(planned(tiny, data, whole, "best_fit", **options))
    fit(planned(tiny, data, again, "best_fit", **options))
    plan = planned(tiny, data, again, "best_fit", **options)
    fit(plan, resume=str(again / "checkpoints" / "step-00000002"))
    assert losses(whole) == losses(again)


@pytest.mark.parametrize("packing", ["none", "best_fit", "xtuner"])
def test_feeds_count_what_their_rows_hold(packing: Any, tiny: Path, tmp_path: Path) -> None:
    plan = planned(tiny, write_rows(tmp_path / "rows.jsonl", 30), tmp_path / "run", packing, data__max_length=100)
    samples = Samples(plan.prepared.stores, epoch_samples([30], [Share()], 0))
    feed = make_feed(samples, packing, 100, 0)
    for row in range(len(feed)):
        held = feed.samples(row)
        assert feed.tokens(row) == sum(map(len, held))
        labels = collate([held], 0, isolated=feed.isolated)["labels"]
        assert feed.labelled(row) == int((labels[:, 1:] != -100).sum())


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([Share(), Share()], [10, 4]),
        ([Share(limit=3), Share()], [3, 4]),
        ([Share(), Share(repeat=2.5)], [10, 10]),
        ([Share(), Share(weight=1.0)], [7, 7]),
        ([Share(weight=3.0), Share(weight=1.0)], [10, 4]),
        ([Share(limit=2, repeat=3), Share(limit=100)], [6, 4]),
    ],
)
def test_mixing_draws_from_each_set_what_it_is_told(shares: list[Share], expected: list[int]) -> None:
    drawn = epoch_samples([10, 4], shares, 7).tolist()
    assert drawn == epoch_samples([10, 4], shares, 7).tolist()
    first, second = [i for i in drawn if i < 10], [i for i in drawn if i >= 10]
    assert [len(first), len(second)] == expected
    for part, count in ((first, 10), (second, 4)):
        uses = [part.count(i) for i in set(part)]
        assert max(uses) - min(uses) <= 1 or len(set(part)) < count


def test_a_mix_trains_and_is_in_the_plan(ftx: Any, tiny: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", 12)
    write_rows(tmp_path / "b.jsonl", 4)
    (tmp_path / "r.yaml").write_text(
        f"model: {tiny}\ndata:\n  sets:\n  - {{path: a.jsonl, limit: 6}}\n  - {{path: b.jsonl, repeat: 2}}\n", "utf-8"
    )
    (event,) = ftx("plan", "r.yaml", "--json").events
    assert event["data"]["packing"]["rows"] == 6 + 8
    assert [one["rows"]["read"] for one in event["data"]["sets"]] == [12, 4]
