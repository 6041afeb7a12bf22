"""Rows, labels and packing against XTuner 0.1.23's own functions.

FTX_GOLDEN names another folder of cases; a tokenizer recorded as `open/x`, `held/x` or `data/x` is looked for there.
"""

from __future__ import annotations

import copy
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from conftest import FIXTURES
from ftx import Conversation, RowError
from ftx.data.named import NamedTemplate, named_templates
from ftx.data.pack import XTunerPacker, xtuner_rows
from ftx.data.template import Encoded
from ftx.data.tokens import Tokenizer
from ftx_internlm2.family import InternLM2
from ftx_sources.xtuner_rows import REPLAYS, conversation

GOLDEN = Path(os.environ.get("FTX_GOLDEN") or FIXTURES / "golden")
# What XTuner does without a template: the texts as they are, the end of text after each answer, no system text.
BARE = NamedTemplate("bare", None, "{input}", "", True, "", ())


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
    return found


@cache
def tokenizer(name: str) -> Tokenizer:
    tail = name.rpartition("/")[2]
    places = [root / folder for root in (GOLDEN, GOLDEN.parent, FIXTURES) for folder in (tail, name, f"data/{tail}")]
    return InternLM2().tokenizer(next(place for place in places if place.is_dir()))


def test_all_of_xtuners_map_functions_have_their_names() -> None:
    assert sorted(REPLAYS) == sorted(recorded("xtuner_map_fns")["names"])


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name, cases in recorded("xtuner_map_fns")["cases"].items() for case in cases]
)
def test_a_map_function_gives_xtuners_turns(name: str, case: dict[str, Any]) -> None:
    given = copy.deepcopy(case["input"])
    assert {"conversation": REPLAYS[name].turns(given)} == case["output"]
    assert given == case["input"]  # the row itself is left as it was


def encoded(case: dict[str, Any]) -> Encoded:
    """The row through ftx: map function, conversation, template, ids and labels, cut on the right."""
    turns = REPLAYS[case["map_fn"]].turns(copy.deepcopy(case["raw"]))
    assert turns == case["conversation"]
    template = named_templates()[case["template"]] if case["template"] else BARE
    if not case["template"]:
        turns = [{k: v for k, v in turn.items() if k != "system"} for turn in turns]
    image = case["raw"].get("image") if case["with_image_token"] else None
    talk = conversation(turns, image)
    words = tokenizer(case["tokenizer"])
    if not case["input_ids_with_output"]:
        asked = template.prompt(talk.messages[:-1], words)
        return Encoded(asked, bytes(len(asked)))
    return template.encode(talk, words, typed_specials=True).part(0, case["max_length"])


@pytest.mark.parametrize("case", recorded("xtuner_encode")["cases"], ids=lambda case: case["name"])
def test_ids_and_labels_equal_xtuners(case: dict[str, Any]) -> None:
    row = encoded(case)
    assert row.ids == case["input_ids"]
    assert row.labels == case["labels"]
    assert any(label >= 0 for label in row.labels) == case["kept_by_process"]


@pytest.mark.parametrize("case", recorded("xtuner_packer")["cases"], ids=lambda c: f"{c['chunk_size']}")
def test_the_packer_gives_xtuners_rows_call_by_call(case: dict[str, Any]) -> None:
    packer = XTunerPacker(case["chunk_size"], case["use_varlen_attn"], case["drop_last"])
    for call in case["calls"]:
        packed = packer(call["input"]["input_ids"], call["input"]["labels"])
        given = {"input_ids": packed.ids, "labels": packed.labels}
        if case["use_varlen_attn"]:
            given |= {"cumulative_len": packed.bounds, "position_ids": packed.positions}
        assert given == call["output"]
        assert packer.waiting == call["residual_after"]


PROCESS = recorded("xtuner_process")


def kept_rows(limit: int) -> list[Encoded]:
    """The recorded rows as XTuner keeps them: mapped, encoded, cut, those without a label dropped."""
    replayed = REPLAYS[PROCESS["map_fn"]]()
    template = named_templates()[PROCESS["template"]]
    kept: list[Encoded] = []
    for raw in PROCESS["rows"]:
        try:
            talk: Conversation = replayed.parse(copy.deepcopy(raw))
        except RowError:
            continue
        row = template.encode(talk, tokenizer(PROCESS["tokenizer"]), typed_specials=True)
        if any(row.learnt[:limit]):
            kept.append(row.part(0, limit))
    return kept


@pytest.mark.parametrize("case", PROCESS["results"], ids=lambda case: json.dumps(case["kwargs"]))
def test_a_whole_set_becomes_xtuners_rows(case: dict[str, Any]) -> None:
    wanted = case["kwargs"]
    assert not wanted.get("shuffle_before_pack"), "a shuffled recording needs its random numbers"
    rows = kept_rows(wanted["max_length"])
    ids, labels = [row.ids for row in rows], [row.labels for row in rows]
    if wanted["pack_to_max_length"]:
        varlen = wanted.get("use_varlen_attn", False)
        packed = xtuner_rows(ids, labels, wanted["max_length"], processes=wanted.get("map_num_proc", 32), varlen=varlen)
        ids, labels = packed.ids, packed.labels
    assert ids == case["input_ids"]
    assert labels == case["labels"]
    assert [len(row) for row in ids] == case["length"]
    assert len(ids) == case["n_rows"]
