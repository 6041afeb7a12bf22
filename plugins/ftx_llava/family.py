"""The LLaVA family: a CLIP or SigLIP tower, a two-layer projector, and InternLM2 or a native language model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from ftx import ImageProcessor, Layout, ModelError, ModelFacts, ModelFamily
from ftx.adapters import linear_leaves
from ftx.atomic import hash_text, weights_fingerprint
from ftx.data.named import named_templates
from ftx.export.inside import Inside
from ftx.export.same import SameLayout
from ftx.pretrained import load_tokenizer, loaded, native_tensors
from ftx_internlm2.layout import layout_of
from ftx_llava.checkpoint import Spanning
from ftx_llava.companions import copy_companions
from ftx_llava.config import native_config, places
from ftx_llava.images import Prepared, read_preparation
from ftx_llava.inspection import check_parts, skeleton_of_tower
from ftx_llava.layout import LEVEL, PREFIXES, LlavaLayout
from ftx_llava.stored import OPTIONS, Options, Stored, open_stored

if TYPE_CHECKING:
    import torch
    from transformers import LlavaConfig, PreTrainedModel

    from ftx.checkpoint_files import Checkpoint
    from ftx.data.template import Template
    from ftx.data.tokens import Tokenizer


class LLaVA(ModelFamily):
    """LLaVA in XTuner's, Hugging Face's or haotian-liu's layout, or a new one of a language model and a tower.

    An XTuner folder may hold adapters instead of whole parts: they are merged as they are read. No file of any folder
    is executed. Results keep the base's layout; what came out of several folders is written as one whole one.
    """

    name = "llava"
    varlen = True
    parts: ClassVar[Mapping[str, str]] = {
        "language": "model.language_model",
        "vision": "model.vision_tower",
        "projector": "model.multi_modal_projector",
    }
    layouts: ClassVar[tuple[str, ...]] = ("xtuner", "huggingface", "official")
    language_model: str | None = Field(
        None, description="folder of the language model, where the model folder has an adapter of it or none"
    )
    vision_tower: str | None = Field(
        None, description="folder of the CLIP or SigLIP tower, where the model folder has an adapter of it or none"
    )
    pad: Literal["square", "none"] = Field(
        "square", description="put pictures on a square of the mean colour, as LLaVA 1.5 and XTuner do, or cut them"
    )

    @field_validator("language_model", "vision_tower")
    @classmethod
    def _from_here(cls, value: str | None) -> str | None:
        # A result records its options, and is opened from other folders than it was made in.
        return None if value is None else str(Path(value).resolve())

    def inspect(self, folder: Path) -> ModelFacts:
        stored = self.stored(folder)
        config = _config(stored)
        checkpoint = self.checkpoint(folder)
        check_parts(config, checkpoint, _layout(stored, config))
        return ModelFacts(
            architecture="LlavaForConditionalGeneration",
            parameters=sum(math.prod(info.shape) for info in checkpoint.tensors.values()),
            dtype="+".join(sorted({info.dtype for info in checkpoint.tensors.values()})),
            size_bytes=checkpoint.size(),
            max_positions=int(getattr(config.text_config, "max_position_embeddings", None) or 2048),
            vocab_size=int(config.text_config.vocab_size),
            notes=tuple(f"family.{name} is not read: {folder} has its own {OPTIONS[name]}" for name in stored.unread),
        )

    def load(
        self, folder: Path, *, dtype: torch.dtype, device: str, attention: str, quantization: Any = None
    ) -> PreTrainedModel:
        from ftx_llava.modeling import LlavaRows

        stored = self.stored(folder)
        config = _config(stored)
        tensors = native_tensors(self.checkpoint(folder), _layout(stored, config))
        return loaded(LlavaRows, folder, config, dtype, device, attention, quantization, tensors)

    def tokenizer(self, folder: Path) -> Tokenizer:
        stored = self.stored(folder)
        internlm2 = stored.text["model_type"] == "internlm2"
        return load_tokenizer(stored.language, **({"add_bos_token": True} if internlm2 else {}))

    def image_processor(self, folder: Path) -> ImageProcessor:
        stored = self.stored(folder)
        tower = _config(stored).vision_config
        prepared = read_preparation(stored.tower)
        if prepared.result != (tower.image_size, tower.image_size):
            raise ModelError(
                f"{stored.tower} prepares pictures of {prepared.result[0]} x {prepared.result[1]} pixels, its vision "
                f"tower sees {tower.image_size} x {tower.image_size}"
            )
        return Prepared(
            side=tower.image_size,
            places=places(tower, stored.eyes),
            shortest=prepared.shortest,
            resample=prepared.resample,
            scale=prepared.rescale_factor,
            mean=prepared.image_mean,
            std=prepared.image_std,
            pad=self.pad == "square",
        )

    def checkpoint(self, folder: Path) -> Checkpoint:
        return Spanning.over(folder, self.stored(folder).sources)

    def layout(self, folder: Path) -> Layout:
        stored = self.stored(folder)
        return _layout(stored, _config(stored))

    def fingerprint(self, folder: Path) -> str:
        sources = self.stored(folder).sources
        folders = [place for source in sources for place in (source.checkpoint.folder, source.adapter) if place]
        return hash_text(" ".join(weights_fingerprint(place) for place in folders))

    def copy_companions(self, folder: Path, out: Path) -> None:
        copy_companions(self.stored(folder), out)

    def convert(self, folder: Path, layout: str, out: Path) -> None:
        from ftx_llava.export import write_as

        write_as(self, folder, layout, out)

    def lora_targets(self, model: PreTrainedModel) -> list[str]:
        return linear_leaves(model, self.parts["language"])

    def own_template(self, folder: Path) -> Template | None:
        internlm2 = self.stored(folder).text["model_type"] == "internlm2"
        return named_templates()["internlm2_chat"] if internlm2 and not self.tokenizer(folder).chat_template else None

    def default_template(self) -> str:
        return "vicuna"

    def stored(self, folder: Path) -> Stored:
        """What the folder holds, with the folders that the options name. Raises ModelError."""
        named = (Path(value) if value else None for value in (self.language_model, self.vision_tower))
        return open_stored(folder, Options(*named))


def _config(stored: Stored) -> LlavaConfig:
    return native_config(stored.text, stored.vision, stored.eyes, str(stored.folder))


def _layout(stored: Stored, config: LlavaConfig) -> LlavaLayout:
    native = skeleton_of_tower(config.vision_config).state_dict()
    level = LEVEL if any(name.startswith(LEVEL) for name in native) else ""
    internlm2 = stored.text["model_type"] == "internlm2"
    language = Inside(layout_of(stored.text) if internlm2 else SameLayout())
    return LlavaLayout(PREFIXES[stored.layout], language, level)
