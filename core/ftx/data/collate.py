"""Rows to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
    images: ImageProcessor | None = None,
) -> dict[str, torch.Tensor]:
    """input_ids, labels and position_ids, each int64 [rows, longest], padded on the right.

    Where there are pictures, pixel_values too, float32 [tiles, 3, height, width] of all rows in order; in input_ids
    IMAGE_ID stands for each of their features. Raises DataError for a picture that has changed.

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
    shown = [sample.pictures for row in rows for sample in row if sample.pictures]
    if shown and images is not None:
        batch["pixel_values"] = images.pixels([[open_picture(one.picture) for one in placed] for placed in shown])
    return batch
