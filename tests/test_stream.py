"""Sets that are read while training: the same rows for whoever asks, and every row accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import TINY, chat, write_rows
from ftx import DataError
from ftx.data import stream
from ftx.data.named import named_templates
from ftx.data.samples import Preparation
from ftx.data.sets import open_set
from ftx.data.stream import Streamed
from ftx.plugins import load_registry
from ftx.run import losses
from ftx.train.fit import fit
from ftx_internlm2.family import InternLM2
from ftx_sources.files import Files
from test_train import plan_for

REGISTRY = load_registry("none")
HOW = Preparation(named_templates()["internlm2_chat"], InternLM2().tokenizer(TINY), 256)


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "WINDOW", 16)


def streamed(
    paths: list[Path], packing: Any = "none", max_rejected: int = 0, weights: tuple[float, ...] = ()
) -> Streamed:
    sets = [open_set(Files(path=str(path)), "auto", None, REGISTRY) for path in paths]
    return Streamed(sets, weights or [1.0] * len(sets), HOW, packing, 42, max_rejected)


def texts(feed: Streamed, count: int) -> list[list[str]]:
    return [[HOW.tokenizer.decode(sample.ids.tolist()) for sample in feed.samples(row)] for row in range(count)]


@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_a_row_depends_on_its_number_alone(packing: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", 40)
    first = texts(streamed([path], packing), 30)
    feed = streamed([path], packing)
    assert [HOW.tokenizer.decode(s.ids.tolist()) for s in feed.samples(29)] == first[29]
    assert texts(feed, 30) == first  # begun again for a row that is past
    assert max(feed.tokens(row) for row in range(30)) <= 256


def test_what_runs_ahead_does_not_send_the_stream_back(tmp_path: Path) -> None:
    """Batches are made ahead of the step that counts their tokens, across the border of two windows."""
    feed = streamed([write_rows(tmp_path / "rows.jsonl", 200)])
    ahead = streamed([tmp_path / "rows.jsonl"])
    expected = [feed.tokens(row) for row in range(60)]
    seen = []
    for row in range(48):
        ahead.samples(row + 12)
        seen.append(ahead.tokens(row))
    assert seen == expected[:48]
    assert ahead.ledger.read == feed.ledger.read  # each row once: nothing was begun again


def test_every_row_of_a_pass_comes_once_before_any_again(tmp_path: Path) -> None:
    feed = streamed([write_rows(tmp_path / "rows.jsonl", 32)])
    seen = [row[0] for row in texts(feed, 64)]
    assert len(set(seen[:32])) == 32
    assert sorted(seen[:32]) == sorted(seen[32:])
    assert seen[:32] != seen[32:]
    assert feed.ledger.read == feed.ledger.kept == 64


def test_sets_are_drawn_from_by_weight(tmp_path: Path) -> None:
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in paths:
        path.write_text(json.dumps(chat("which?", path.stem)) + "\n", "utf-8")
    seen = [row[0] for row in texts(streamed(paths, weights=(3.0, 1.0)), 400)]
    assert 260 < sum("assistant\na<" in text for text in seen) < 340


def test_a_rejected_row_stops_the_stream_when_it_is_reached(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", 40)
    with path.open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    with pytest.raises(DataError, match="row 41: column 2: broken JSON"):
        texts(streamed([path]), 64)
    feed = streamed([path], max_rejected=1)
    assert len(texts(feed, 40)) == 40
    assert feed.ledger.read == feed.ledger.kept + feed.ledger.rejected


def test_a_set_without_a_good_row_does_not_turn_in_circles(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(chat("a", "")) + "\n", "utf-8")
    with pytest.raises(DataError, match="holds no row that can be trained on"):
        streamed([path], max_rejected=9).samples(0)


@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_a_streamed_run_trains_and_resumes_bit_for_bit(packing: str, tiny: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 40)
    options = {"data__streaming": True, "data__packing": packing, "train__max_steps": 6, "train__save_every": 3}
    whole, again = tmp_path / "whole", tmp_path / "again"
    fit(plan_for(tiny, data, whole, **options))
    fit(plan_for(tiny, data, again, **options))
    fit(plan_for(tiny, data, again, **options), resume=str(again / "checkpoints" / "step-00000003"))
    assert losses(whole) == losses(again)
    manifest = json.loads((whole / "adapter" / "ftx.json").read_text("utf-8"))
    assert manifest["rows"]["read"] >= 24


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ([], "data.streaming: a stream has no epochs; set train.max_steps"),
        (["--max-steps", 2, "--packing", "xtuner"], "data.packing: XTuner's way shuffles the whole set"),
        (["--max-steps", 2, "--set", "data.sets=[{path: rows.jsonl, repeat: 2}]"], "data.sets: limit and repeat need"),
    ],
)
def test_what_a_stream_cannot_heed_is_refused(
    settings: list[Any], sentence: str, ftx: Any, tiny: Path, rows: Path
) -> None:
    result = ftx("plan", "--model", tiny, "--data", rows, "--set", "data.streaming=true", *settings)
    assert result.code == 2
    assert sentence in result.err


def test_a_stream_leaves_no_tokens_on_disk(
    ftx: Any, tiny: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTX_CACHE", str(tmp_path / "cache"))
    flags = ["--model", tiny, "--data", rows, "--max-steps", 2, "--set", "data.streaming=true"]
    result = ftx("train", *flags, "--json")
    assert result.code == 0, result.err
    assert not (tmp_path / "cache").exists()
    assert result.events[0]["rows"]["read"] > 0
    assert "epoch" not in result.events[1]
