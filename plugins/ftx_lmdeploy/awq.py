"""Runs in LMDeploy's environment: its AWQ, calibrated on rows of ours, which its command line cannot be given."""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any


def main() -> None:
    """Quantise as `lmdeploy lite auto_awq` does, on the token ids of a file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--work-dir", required=True)
    parser.add_argument("--rows", required=True, type=Path)
    parser.add_argument("--w-bits", type=int, required=True)
    parser.add_argument("--w-group-size", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--search-scale", action="store_true")
    given = vars(parser.parse_args())
    rows = json.loads(given.pop("rows").read_text("utf-8"))

    torch = importlib.import_module("torch")
    calibrate = importlib.import_module("lmdeploy.lite.apis.calibrate")
    auto_awq = importlib.import_module("lmdeploy.lite.apis.auto_awq")

    def loaders(*_: Any, **__: Any) -> list[Any]:
        return [torch.tensor([row]) for row in rows]

    calibrate.get_calib_loaders = loaders  # type: ignore[attr-defined]
    auto_awq.auto_awq(calib_samples=len(rows), calib_seqlen=len(rows[0]), **given)


if __name__ == "__main__":
    main()
