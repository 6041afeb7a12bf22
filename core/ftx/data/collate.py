"""Rows to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftx.data.store import Sample
from ftx.data.template import IGNORE

if TYPE_CHECKING:
    import torch


def collate(rows: Sequence[Sequence[Sample]], pad_id: int, *, isolated: bool = False) -> dict[str, torch.Tensor]:
    """input_ids, labels and position_ids, each int64 [rows, longest], padded on the right.

    Positions begin at 0 with every sample, and with the padding. Without `isolated` there is an attention_mask too.
    With it there is none: a row's samples are told apart by their positions, which transformers heeds only where no
    mask is given; the first token of a sample, which nothing before it may predict, is not labelled.
    """
    import torch

    width = max(sum(map(len, row)) for row in rows)
    shape = (len(rows), width)
    batch = {
        "input_ids": torch.full(shape, pad_id),
        "labels": torch.full(shape, IGNORE),
        "position_ids": torch.zeros(shape, dtype=torch.long),
    }
    if not isolated:
        batch["attention_mask"] = torch.zeros(shape, dtype=torch.long)
    for i, row in enumerate(rows):
        at = 0
        for sample in row:
            part = slice(at, at + len(sample))
            batch["input_ids"][i, part] = torch.from_numpy(sample.ids.astype("int64"))
            batch["labels"][i, part] = torch.from_numpy(sample.labels)
            batch["labels"][i, at] = IGNORE
            batch["position_ids"][i, part] = torch.arange(len(sample))
            at += len(sample)
        batch["position_ids"][i, at:] = torch.arange(width - at)
        if not isolated:
            batch["attention_mask"][i, :at] = 1
    return batch
