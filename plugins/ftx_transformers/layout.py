"""Where each stored tensor stands in the native model, by transformers' own conversion of checkpoints.

As it loads a folder, transformers renames stored tensors and fuses some of them, as it does with experts that are
stored one by one. Its rules for each model type are WeightRenamings and WeightConverters. Stacking and concatenating
change no number: a stored tensor is a parameter or a part of one, and is written back by reading that part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from ftx import Layout, ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    Shape = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """The native parameter that a stored tensor belongs to and the part it holds; an empty index is all of it."""

    native: str
    index: tuple[int | slice, ...] = ()

    def shape(self, whole: Shape) -> Shape | None:
        """Shape of the part in a parameter of shape `whole`; None where it reaches beyond."""
        if not self.index:
            return whole
        part = []
        for at, size in zip(self.index, whole, strict=True):
            if isinstance(at, slice):
                start, stop = at.start or 0, size if at.stop is None else at.stop
                part.append(stop - start)
            else:
                stop = at + 1
            if stop > size:
                return None
        return tuple(part)


@dataclass(frozen=True)
class PlacedLayout(Layout):
    """Every stored tensor by name in its place; one that has none holds nothing of the native model."""

    places: Mapping[str, Place]

    def native_names(self, stored: str) -> list[str]:
        return [self.places[stored].native] if stored in self.places else []

    def split(self, stored: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        place = self.places.get(stored)
        return {place.native: tensor} if place and not place.index else {}

    def join(self, stored: str, native: Mapping[str, torch.Tensor]) -> torch.Tensor:
        place = self.places[stored]
        return native[place.native][place.index]


def places(native: PreTrainedModel, stored: Mapping[str, Shape]) -> dict[str, Place]:
    """The place of each tensor in `stored`, which gives shapes by name; those the model has no place for are left out.

    Raises ModelError when transformers converts one otherwise than by renaming, stacking and concatenating, or one has
    not the dimensions for that.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, dot_natural_key

    rules = get_model_conversion_mapping(native)
    converters = {p: rule for rule in rules if isinstance(rule, WeightConverter) for p in rule.source_patterns}
    held = native.state_dict()
    found: dict[str, Place] = {}
    fused: dict[str, dict[str, list[str]]] = {}  # native name -> source pattern -> stored names
    for name in sorted(stored, key=dot_natural_key):  # the order in which transformers stacks them
        renamed, pattern = _renamed(name, rules, native, held)
        if renamed in held and pattern is None:
            found[name] = Place(renamed)
        elif renamed in held:
            fused.setdefault(renamed, {}).setdefault(pattern, []).append(name)
    for parameter, sources in fused.items():
        converter = converters[next(iter(sources))]
        rows = [sources.get(pattern, []) for pattern in converter.source_patterns]
        stacked, joined = _moves(converter, rows, native)
        whole = tuple(held[parameter].shape)
        for name in chain(*rows):
            if len(stored[name]) + (stacked is not None) != len(whole):
                raise ModelError(misfit(name, stored[name], parameter, whole))
        for name, index in _parts(rows, stacked, joined, stored):
            found[name] = Place(parameter, index)
    return found


def misfit(name: str, shape: Shape, parameter: str, whole: Shape) -> str:
    """The sentence for a stored tensor that is no part of its parameter."""
    return f"{name} of shape {shape} does not fit {parameter}, which config.json makes {whole}"


def _renamed(
    name: str, rules: Sequence[Any], native: PreTrainedModel, held: Mapping[str, torch.Tensor]
) -> tuple[str, Any]:
    """The native name by transformers' rules, and the pattern of the converter that fuses it, if one does."""
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamed, pattern = rename_source_key(name, renamings, converters, native.base_model_prefix, held)
    # A rule for old checkpoints can fit a name that is right already.
    return (name, None) if renamed not in held and name in held else (renamed, pattern)


def _moves(converter: Any, rows: Sequence[list[str]], native: PreTrainedModel) -> tuple[int | None, int | None]:
    """The dimensions of the parameter along which a converter stacks and concatenates. Raises ModelError."""
    from transformers.core_model_loading import Concatenate, MergeModulelist

    kinds = [type(operation) for operation in converter.operations]
    if len(converter.target_patterns) != 1 or kinds not in (
        [MergeModulelist],
        [Concatenate],
        [MergeModulelist, Concatenate],
    ):
        first = next(name for row in rows for name in row)
        raise ModelError(
            f"transformers holds a {native.config.model_type} otherwise than it is stored ({first}), which ftx cannot "
            "write back yet"
        )
    along = {type(operation): operation.dim for operation in converter.operations}
    return along.get(MergeModulelist), along.get(Concatenate)


def _parts(
    rows: Sequence[list[str]], stacked: int | None, joined: int | None, stored: Mapping[str, Shape]
) -> Iterator[tuple[str, tuple[int | slice, ...]]]:
    """Each stored tensor's part of the parameter: rows are stacked along one dimension and joined along another."""
    if stacked is None:
        rows = [[name] for row in rows for name in row]
    start = 0
    for row in filter(None, rows):
        shape = list(stored[row[0]])
        if stacked is not None:
            shape.insert(stacked, len(row))
        for position, name in enumerate(row):
            index: list[int | slice] = [slice(None)] * len(shape)
            if joined is not None:
                index[joined] = slice(start, start + shape[joined])
            if stacked is not None:
                index[stacked] = position
            yield name, tuple(index)
        start += shape[joined] if joined is not None else 0
