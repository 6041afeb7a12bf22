"""Rows to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ftx.data.images import open_picture
from ftx.data.store import Sample
from ftx.data.template import IGNORE

if TYPE_CHECKING:
    import torch

    from ftx.contracts import ImageProcessor


def collate(
    rows: Sequence[Sequence[Sample]],
    pad_id: int,
    *,
    isolated: bool = False,
    end_to_end: bool = False,
    images: ImageProcessor | None = None,
) -> dict[str, Any]:
    """input_ids, labels and position_ids, each int64 [rows, longest], padded on the right.

    Where there are pictures, pixel_values too, float32 [tiles, 3, height, width] of all rows in order; in input_ids
    IMAGE_ID stands for each of their features. Raises DataError for a picture that has changed.

    Positions begin at 0 with every sample, and with the padding. Without `isolated` there is an attention_mask too.
    With it there is none: a row's samples are told apart by their positions, which transformers heeds only where no
    mask is given; the first token of a sample, which nothing before it may predict, is not labelled.

    With `end_to_end` all samples stand in one row without padding. Their bounds are given with it, by the names that
    transformers has for them: cu_seq_lens_q, int32 [samples + 1], and the longest sample's length, max_length_q.
    """
    import torch

    if end_to_end:
        rows = [[sample for row in rows for sample in row]]
    width = max(sum(map(len, row)) for row in rows)
    shape = (len(rows), width)
    batch: dict[str, Any] = {
        "input_ids": torch.full(shape, pad_id),
        "labels": torch.full(shape, IGNORE),
        "position_ids": torch.zeros(shape, dtype=torch.long),
    }
    if end_to_end:
        lengths = [len(sample) for sample in rows[0]]
        batch["cu_seq_lens_q"] = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        batch["max_length_q"] = max(lengths)
    elif not isolated:
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
        if "attention_mask" in batch:
            batch["attention_mask"][i, :at] = 1
    shown = [sample.pictures for row in rows for sample in row if sample.pictures]
    if shown and images is not None:
        batch["pixel_values"] = images.pixels([[open_picture(one.picture) for one in placed] for placed in shown])
    return batch


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch's tensors on `device`; from pinned memory nothing waits for them."""
    return {name: v.to(device, non_blocking=True) if hasattr(v, "to") else v for name, v in batch.items()}


def pinned(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch in memory that a GPU reads while the host goes on."""
    return {name: value.pin_memory() if hasattr(value, "pin_memory") else value for name, value in batch.items()}
