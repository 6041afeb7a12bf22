"""Rows to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftx.data.template import IGNORE, Encoded

if TYPE_CHECKING:
    import torch


def collate(rows: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and labels, each int64 [rows, longest], padded on the right."""
    import torch

    width = max(len(row.ids) for row in rows)
    shape = (len(rows), width)
    batch = {
        "input_ids": torch.full(shape, pad_id),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, IGNORE),
    }
    for i, row in enumerate(rows):
        batch["input_ids"][i, : len(row.ids)] = torch.tensor(row.ids)
        batch["attention_mask"][i, : len(row.ids)] = 1
        batch["labels"][i, : len(row.ids)] = torch.tensor(row.labels)
    return batch
