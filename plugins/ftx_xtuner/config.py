"""XTuner's training configs, which are Python: read for a few values and never executed."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftx import ModelError

# the section of `model` with a LoRA -> the part of the model that it tunes
LORA = {"lora": "llm", "llm_lora": "llm", "visual_encoder_lora": "vision"}
# What peft takes when a config leaves it out.
RANK = ALPHA = 8
_TEMPLATE = re.compile(r"(?:.*\.)?PROMPT_TEMPLATE\.(\w+)")


@dataclass(frozen=True)
class Name:
    """A class or function that a config imports, as it calls it."""

    text: str


@dataclass(frozen=True)
class LoraOptions:
    """A LoRA as the config describes it; None where the value is not written out."""

    rank: int | None
    alpha: float | None
    targets: tuple[str, ...] | None = None
    rank_stabilised: bool = False


@dataclass(frozen=True)
class TrainingConfig:
    """`base`: the model's name or path; `template`: of PROMPT_TEMPLATE; `lora`: by part, "llm" or "vision"."""

    base: str | None = None
    template: str | None = None
    lora: Mapping[str, LoraOptions] = field(default_factory=dict)


def read_config(text: str, origin: str) -> TrainingConfig:
    """The values written out in a config: a file's text, or a checkpoint's meta.cfg.

    Names stand for what was assigned to them before; anything that would have to be computed counts as not written.
    Raises ModelError, which names `origin`, for text that is no Python.
    """
    tree = _tree(text, origin)
    names = _assigned(tree)
    model = _mapping(names.get("model"))
    lora = {part: _lora(_mapping(model[key])) for key, part in LORA.items() if isinstance(model.get(key), dict)}
    return TrainingConfig(_base(model, names), _template(tree), lora)


def written_out(text: str, origin: str) -> dict[str, Any]:
    """All that a config assigns, by name; what is imported is a Name. Raises ModelError for text that is no Python."""
    return _assigned(_tree(text, origin))


def _tree(text: str, origin: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"{origin} is no XTuner config: {str(error).splitlines()[0]}") from None


def _assigned(tree: ast.Module) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            names[statement.targets[0].id] = _value(statement.value, names)
    return names


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value of a literal, of dict(...) and of a known name, a Name for another one; None for all else."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id, Name(node.id))
    if isinstance(node, ast.Attribute):
        return Name(ast.unparse(node))
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(one, names) for one in node.elts]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {key.value: _value(value, names) for key, value in pairs if isinstance(key, ast.Constant)}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {one.arg: _value(one.value, names) for one in node.keywords if one.arg}
    return None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _lora(section: Mapping[str, Any]) -> LoraOptions:
    rank, alpha, targets = section.get("r", RANK), section.get("lora_alpha", ALPHA), section.get("target_modules")
    if used := [feature for feature in ("use_dora", "rank_pattern", "alpha_pattern") if section.get(feature)]:
        raise ModelError(f"the config uses {', '.join(used)}, which cannot be merged yet")
    return LoraOptions(
        rank if isinstance(rank, int) else None,
        float(alpha) if isinstance(alpha, int | float) and alpha > 0 else None,
        tuple(targets) if isinstance(targets, list) and all(isinstance(t, str) for t in targets) else None,
        section.get("use_rslora") is True,
    )


def _base(model: Mapping[str, Any], names: Mapping[str, Any]) -> str | None:
    places = (
        _mapping(model.get("llm")).get("pretrained_model_name_or_path"),
        model.get("model_path"),
        names.get("pretrained_model_name_or_path"),
        names.get("llm_name_or_path"),
    )
    return next((place for place in places if isinstance(place, str)), None)


def _template(tree: ast.Module) -> str | None:
    """The template's name when the config speaks of one only, as text or as an attribute of PROMPT_TEMPLATE."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(match[1] for match in [_TEMPLATE.fullmatch(node.value)] if match)
        elif (
            isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "PROMPT_TEMPLATE"
        ):
            found.add(node.attr)
    return found.pop() if len(found) == 1 else None
