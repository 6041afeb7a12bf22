"""What a LLaVA's xtuner_config.py says, read as data: the file is parsed and never executed."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from ftx import ModelError

NAME = "xtuner_config.py"
LAYER = -2  # of the tower, counted from its end; XTuner's default


@dataclass(frozen=True)
class XTunerConfig:
    """The base models' folders as the file names them, and the layer of the tower whose output is projected."""

    language_model: str | None = None
    vision_tower: str | None = None
    select_layer: int = LAYER

    @staticmethod
    def of(folder: Path) -> XTunerConfig:
        """What the folder's xtuner_config.py says, or the defaults without one. Raises ModelError."""
        path = folder / NAME
        if not path.is_file():
            return XTunerConfig()
        try:
            tree = ast.parse(path.read_text("utf-8"))
        except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from None
        texts = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name) and isinstance(node.value.value, str)
        }
        return XTunerConfig(
            texts.get("llm_name_or_path"), texts.get("visual_encoder_name_or_path"), _select_layer(tree)
        )

    def text(self) -> str:
        """The file's content, as short as it can be."""
        return (
            f"llm_name_or_path = {self.language_model!r}\n"
            f"visual_encoder_name_or_path = {self.vision_tower!r}\n"
            f"model = dict(visual_select_layer={self.select_layer})\n"
        )


def _select_layer(tree: ast.Module) -> int:
    """The argument visual_select_layer of any call in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "visual_select_layer":
            try:
                value = ast.literal_eval(node.value)
            except (ValueError, TypeError):
                continue
            if isinstance(value, int):
                return value
    return LAYER
