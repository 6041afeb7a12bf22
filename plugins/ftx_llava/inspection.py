"""Every weight of every part against the native model, which exists without memory for its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ftx import Layout, ModelError
from ftx.pretrained import skeleton
from ftx_llava.layout import LANGUAGE, PROJECTOR, TOWER

if TYPE_CHECKING:
    from transformers import LlavaConfig, PreTrainedConfig, PreTrainedModel

    from ftx.checkpoint_files import Checkpoint

PARTS = {TOWER: "vision tower", PROJECTOR: "projector", LANGUAGE: "language model", "": "language model"}
Shapes = Mapping[str, tuple[int, ...]]


def skeleton_of_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """The tower on the meta device. Raises ModelError when its sizes do not fit each other."""
    from transformers import AutoModel

    return skeleton(lambda: AutoModel.from_config(config), "the config of the vision tower makes")


def check_parts(config: LlavaConfig, checkpoint: Checkpoint, layout: Layout) -> None:
    """Compare what is stored with what the configs make. Raises ModelError with a sentence per part and problem."""
    from ftx_llava.modeling import LlavaRows

    native = skeleton(lambda: LlavaRows(config), "the configs of the parts make")
    expected = {name: tuple(tensor.shape) for name, tensor in native.state_dict().items()}
    stored = _stored_shapes(checkpoint, layout)
    _check_projector(stored, config)
    tied = set(getattr(native, "all_tied_weights_keys", None) or ())
    problems = [
        *_absent(expected.keys() - stored.keys() - tied, expected, checkpoint),
        *_strange(checkpoint, layout, expected),
    ]
    if not problems:
        wrong = (name for name in stored if stored[name] != expected[name])
        problems = [
            f"{checkpoint.folder}: {name} of the {_part(name)} has shape {stored[name]}, but its config makes it "
            f"{expected[name]}"
            for name in [*wrong][:1]
        ]
    if problems:
        raise ModelError(*problems)


def _stored_shapes(checkpoint: Checkpoint, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Shapes by native name. Raises ModelError for a fused tensor that does not come apart."""
    import torch

    found: dict[str, tuple[int, ...]] = {}
    for name, info in checkpoint.tensors.items():
        try:
            split = layout.split(name, torch.empty(info.shape, device="meta"))
        except RuntimeError:
            raise ModelError(
                f"{checkpoint.folder}: {name} has shape {info.shape}, which its config does not make"
            ) from None
        found |= {native: tuple(piece.shape) for native, piece in split.items()}
    return found


def _check_projector(stored: Shapes, config: LlavaConfig) -> None:
    """Raise ModelError when the projector takes something else than the tower gives, or gives what nobody takes."""
    weight = stored.get(f"{PROJECTOR}linear_1.weight", ())
    given, taken = config.vision_config.hidden_size, config.text_config.hidden_size
    if len(weight) == 2 and weight[1] != given:
        raise ModelError(
            f"the projector takes features of width {weight[1]}, but the vision tower gives {given}: they are of "
            "different models"
        )
    if len(weight) == 2 and weight[0] != taken:
        raise ModelError(
            f"the projector gives features of width {weight[0]}, but the language model takes {taken}: they are of "
            "different models"
        )


def _absent(missing: set[str], expected: Shapes, checkpoint: Checkpoint) -> list[str]:
    problems = []
    for part in dict.fromkeys(PARTS.values()):
        lacking = sorted(name for name in missing if _part(name) == part)
        if lacking and len(lacking) == sum(_part(name) == part for name in expected):
            problems.append(f"{checkpoint.folder} holds no weights of the {part}")
        elif lacking:
            problems.append(
                f"{checkpoint.folder} lacks {len(lacking)} weights of the {part}, such as {lacking[0]} in transformers"
            )
    return problems


def _strange(checkpoint: Checkpoint, layout: Layout, expected: Shapes) -> list[str]:
    strange: dict[str, list[str]] = {}
    for name in sorted(checkpoint.tensors):
        if unknown := [native for native in layout.native_names(name) if native not in expected]:
            strange.setdefault(_part(unknown[0]), []).append(name)
    return [
        f"{checkpoint.folder} holds {len(names)} weights that its {part} has not, such as {names[0]}"
        for part, names in strange.items()
    ]


def _part(native: str) -> str:
    return next(part for prefix, part in PARTS.items() if native.startswith(prefix))
