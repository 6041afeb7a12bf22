"""Rows of like length in a batch: each once an epoch, less padding, the same again after a resume."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import write_rows
from ftx.data.feed import Feed, Samples, make_feed
from ftx.data.group import length_grouped
from ftx.data.store import Store, Writer
from ftx.data.template import Encoded
from ftx.errors import RecipeError
from ftx.run import losses
from ftx.train.fit import fit
from ftx.train.schedule import micro_batches
from test_train import plan_for

ROWS, BATCH, MICRO = 1500, 16, 4


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """1500 samples of log-normal length, 200 tokens in the median."""
    folder = tmp_path_factory.mktemp("store")
    lengths = np.random.default_rng(0).lognormal(np.log(200), 0.8, ROWS).astype(int).clip(2, 2048)
    with Writer(folder) as writer:
        for length in lengths.tolist():
            writer.add(Encoded([1] * length, bytes([0]) + bytes([1]) * (length - 1)))
    return Samples([Store(folder)], np.arange(ROWS))


def steps(feed: Feed, epoch: int = 0) -> list[list[int]]:
    per_epoch = -(-len(feed) // BATCH)
    return [feed.rows_of(step, BATCH, 42) for step in range(epoch * per_epoch, (epoch + 1) * per_epoch)]


def padding(feed: Feed) -> float:
    """Share of the places in an epoch's micro-batches that hold no token."""
    parts = [part for rows in steps(feed) for part in micro_batches(rows, MICRO, 0, 1)]
    places = sum(len(part) * max(map(feed.tokens, part)) for part in parts)
    return 1 - sum(map(feed.tokens, itertools.chain(*parts))) / places


def test_grouping_saves_padding(samples: Samples) -> None:
    plain, grouped = (padding(make_feed(samples, "none", 2048, 42, grouped=on)) for on in (False, True))
    assert plain == pytest.approx(0.480, abs=0.005)
    assert grouped == pytest.approx(0.036, abs=0.005)


def test_every_row_comes_once_an_epoch_and_the_longest_first(samples: Samples) -> None:
    feed = make_feed(samples, "none", 2048, 42, grouped=True)
    epochs = [list(itertools.chain(*steps(feed, epoch))) for epoch in range(2)]
    assert epochs[0] != epochs[1]
    for order in epochs:
        assert sorted(order) == list(range(ROWS))
        assert feed.tokens(order[0]) == samples.lengths.max()
    assert [len(rows) for rows in steps(feed)[-2:]] == [BATCH, ROWS % BATCH]
    assert list(itertools.chain(*steps(feed))) == epochs[0]  # an epoch that is past


def test_pictures_stay_apart_from_text(samples: Samples) -> None:
    mixed = Samples(samples._stores, np.arange(ROWS))
    mixed.pictured[::3] = True
    kinds = [
        {bool(mixed.pictured[row]) for row in rows} for rows in steps(make_feed(mixed, "none", 2048, 42, grouped=True))
    ]
    together = [len(kind) == 2 for kind in kinds]
    assert kinds.count({True}) > 10
    assert kinds.count({False}) > 30
    assert sum(together[:-50]) <= 1  # the longest row of all, which changes places
    for all_alike in (True, False):
        mixed.pictured[:] = all_alike
        assert steps(make_feed(mixed, "none", 2048, 42, grouped=True)) == steps(
            make_feed(samples, "none", 2048, 42, grouped=True)
        )


@pytest.mark.parametrize("rows", [1, 2, 7, 15, 16, 17])
def test_small_sets_are_grouped_too(rows: int) -> None:
    for lengths in (np.arange(1, rows + 1), np.arange(1, rows + 1) * (-1) ** np.arange(rows)):
        assert sorted(length_grouped(lengths.astype(np.int32), 4, 0, 0).tolist()) == list(range(rows))


def test_a_resume_in_mid_epoch_is_exact(tiny: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 22)
    options: dict[str, Any] = {"data__group_by_length": True, "train__epochs": 2.0, "train__save_every": 4}
    options["train__keep_checkpoints"] = 9
    whole, again = tmp_path / "whole", tmp_path / "again"
    fit(plan_for(tiny, data, whole, **options))
    fit(plan_for(tiny, data, again, **options))
    fit(plan_for(tiny, data, again, **options), resume=str(again / "checkpoints" / "step-00000008"))
    assert len(losses(whole)) == 12
    assert losses(whole) == losses(again)
    options["data__group_by_length"] = False
    with pytest.raises(RecipeError, match="group_by_length was True"):
        fit(plan_for(tiny, data, again, **options), resume="auto")


def test_the_plan_shows_it(ftx: Any, tiny: Path, rows: Path) -> None:
    flags = ["--model", tiny, "--data", rows, "--json"]
    for on in (True, False):
        (plan,) = ftx("plan", *flags, "--set", f"data.group_by_length={str(on).lower()}").events
        assert plan["data"]["group_by_length"] is on


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["data.packing=best_fit"], "data.group_by_length: goes with data.packing none alone, not with best_fit"),
        (["data.packing=xtuner"], "data.group_by_length: goes with data.packing none alone, not with xtuner"),
        (["data.streaming=true", "train.max_steps=2"], "data.group_by_length: needs the whole set's lengths"),
    ],
)
def test_what_leaves_nothing_to_group_is_refused(
    settings: list[str], sentence: str, ftx: Any, tiny: Path, rows: Path
) -> None:
    chosen = [f"--set={setting}" for setting in ["data.group_by_length=true", *settings]]
    result = ftx("plan", "--model", tiny, "--data", rows, *chosen)
    assert result.code == 2
    assert sentence in result.err
