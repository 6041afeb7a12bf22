"""Two gigabytes over a thin line that breaks again and again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from benches import REPO, GitBench, bench_of
from published import adapter_copy, made_once, merged_copy  # noqa: F401 (fixtures)
from test_faults import sealed_anew

pytestmark = pytest.mark.system  # needs git-lfs, 6 GB of disk and a minute or more
SHARDS, SHARD = 20, 100_000_000  # bytes
RATE, CUT = 50_000_000, 300_000_000  # bytes a second; bytes


def grown(folder: Path) -> Path:
    """The merged model of the folder with weights of 2 GB, in shards with their index, sealed anew."""
    (folder / "model.safetensors").unlink()
    weights = {}
    for number in range(1, SHARDS + 1):
        name = f"model-{number:05}-of-{SHARDS:05}.safetensors"
        tensor = numpy.random.default_rng(number).integers(0, 256, SHARD - 1000, numpy.uint8)
        save_file({f"w{number}": tensor}, folder / name)
        weights[f"w{number}"] = name
    index = {"metadata": {"total_size": SHARDS * SHARD}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    sealed_anew(folder)
    return folder


@pytest.mark.timeout(1500)
def test_two_gigabytes_with_a_cut_every_300_megabytes(
    ftx: Any, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = grown(merged)
    with bench_of("openxlab", tmp_path, monkeypatch) as bench:
        assert isinstance(bench, GitBench)
        server = bench.server
        server.rate, server.cut_every = RATE, CUT
        bench.settings = ()
        begun = time.monotonic()
        result = ftx(*bench.words(large))
        took = time.monotonic() - begun
        assert result.code == 0, result.err
        stored = {path.name: path.stat().st_size for path in (server.root / f"{REPO}.git" / "lfs").iterdir()}
        weights = {oid: size for oid, size in stored.items() if size > SHARD // 2}
        again = server.came.total() - sum(stored.values())
        print(
            f"{sum(stored.values()):,} bytes in {len(stored)} objects at {RATE / 1e6:.0f} MB/s in {took:.0f} s, "
            f"{server.cuts} cuts; {again:,} bytes of broken attempts were sent again; "
            f"most for one object: {max(server.came[oid] / size for oid, size in weights.items()):.2f} of its size"
        )
        assert server.cuts == server.came.total() // CUT >= 6
        assert len(weights) == SHARDS and sum(weights.values()) >= 1_999_000_000
        assert sorted(server.received) == sorted(set(server.received)) == sorted(stored), "no object arrived twice"
        # What was sent beyond the objects is what the cuts broke off: parts of one object each.
        assert again <= server.cuts * SHARD
