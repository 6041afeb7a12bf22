"""The InternVL2 family: 1B to 76B, and whatever else has its official layout."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ftx import ImageProcessor, Layout, ModelError, ModelFacts, ModelFamily
from ftx.adapters import linear_leaves
from ftx.checkpoint_files import read_json
from ftx.data.named import named_templates
from ftx.export.inside import Inside
from ftx.export.same import SameLayout
from ftx.export.weights import write_shards
from ftx.pretrained import check_weights, load_tokenizer, loaded, native_tensors, skeleton
from ftx_internlm2.layout import layout_of
from ftx_internvl.config import Chat, native_config, read_config
from ftx_internvl.layout import InternVLLayout
from ftx_internvl.tiles import Tiling

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ftx.data.template import Template
    from ftx.data.tokens import Tokenizer

# the official code's names of templates -> ftx's
TEMPLATES = {
    "internlm2-chat": "internvl2",
    "Hermes-2": "internvl2",
    "phi3-chat": "internvl2_phi3",
    "internvl2_5": "internvl2_5",
}
STOPS = "generation_config.json"  # holds the ids that end an answer
SPECIALS = ("<img>", "</img>", "<IMG_CONTEXT>")


class InternVL(ModelFamily):
    """InternVL2 in the official layout, on transformers' InternVL.

    InternViT of 300M and of 6B style; InternLM2, Llama, Qwen2 and Phi-3 as language models. `auto_map` is ignored.
    Prompts are the official ones, with InternVL2's own system text; template internvl2_xtuner has XTuner's.
    """

    name = "internvl"
    varlen = True
    parts: ClassVar[Mapping[str, str]] = {
        "language": "model.language_model",
        "vision": "model.vision_tower",
        "projector": "model.multi_modal_projector",
    }
    layouts: ClassVar[tuple[str, ...]] = ("official", "transformers")
    min_dynamic_patch: int | None = Field(None, ge=1, description="fewest tiles of a picture; default: the model's")
    max_dynamic_patch: int | None = Field(
        None, ge=1, description="most tiles of a row's pictures together, thumbnails not counted; default: the model's"
    )

    def inspect(self, folder: Path) -> ModelFacts:
        chat = read_config(folder)
        checkpoint, layout = self.checkpoint(folder), layout_for(chat)
        _check_projector(chat, {name: info.shape for name, info in checkpoint.tensors.items()})
        check_weights(_skeleton(chat, folder), checkpoint, layout, "an InternVL2")
        dtypes = {info.dtype for info in checkpoint.tensors.values()}
        remote = "auto_map" in read_json(folder / "config.json")
        return ModelFacts(
            architecture="InternVLChatModel",
            parameters=sum(math.prod(info.shape) for info in checkpoint.tensors.values()),
            dtype="+".join(sorted(dtypes)),
            size_bytes=checkpoint.size(),
            max_positions=int(chat.llm_config.get("max_position_embeddings", 2048)),
            vocab_size=int(chat.llm_config["vocab_size"]),
            notes=("auto_map in config.json is ignored: ftx runs no code from a model folder",) if remote else (),
        )

    def load(
        self, folder: Path, *, dtype: torch.dtype, device: str, attention: str, quantization: Any = None
    ) -> PreTrainedModel:
        from ftx_internvl.modeling import InternVLChat

        chat = read_config(folder)
        config = native_config(chat, str(folder / "config.json"))
        tensors = native_tensors(self.checkpoint(folder), layout_for(chat))
        return loaded(InternVLChat, folder, config, dtype, device, attention, quantization, tensors)

    def tokenizer(self, folder: Path) -> Tokenizer:
        internlm2 = read_config(folder).language == "internlm2"
        return load_tokenizer(folder, **({"add_bos_token": True} if internlm2 else {}))

    def image_processor(self, folder: Path) -> ImageProcessor:
        chat = read_config(folder)
        tokenizer = self.tokenizer(folder)
        ids = [tokenizer.special(token) for token in SPECIALS]
        for token, number in zip(SPECIALS, ids, strict=True):
            if number is None:
                raise ModelError(f"the tokenizer of {folder} has no special token {token}, which pictures need")
        fewest = self.min_dynamic_patch or chat.min_dynamic_patch
        most = self.max_dynamic_patch or chat.max_dynamic_patch
        if fewest > most:
            raise ModelError(f"family.min_dynamic_patch {fewest} exceeds max_dynamic_patch {most}")
        return Tiling(
            side=chat.tile,
            places=chat.places,
            fewest=fewest,
            most=most,
            thumbnail=chat.use_thumbnail,
            dynamic=chat.dynamic_image_size,
            pad=chat.pad2square,
            begin=int(ids[0] or 0),
            end=int(ids[1] or 0),
        )

    def layout(self, folder: Path) -> Layout:
        return layout_for(read_config(folder))

    def convert(self, folder: Path, layout: str, out: Path) -> None:
        from ftx_internvl.native import write_native

        if layout == "official":
            checkpoint = self.checkpoint(folder)
            write_shards(checkpoint, out, checkpoint.reader())
            self.copy_companions(folder, out)
            return
        tokenizer = self.tokenizer(folder)
        chat = read_config(folder)
        write_native(chat, self.checkpoint(folder), self.layout(folder), tokenizer, _travelled(folder, self), out)
        if (folder / STOPS).is_file():
            shutil.copyfile(folder / STOPS, out / STOPS)

    def lora_targets(self, model: PreTrainedModel) -> list[str]:
        return linear_leaves(model, self.parts["language"])

    def own_template(self, folder: Path) -> Template | None:
        named = TEMPLATES.get(read_config(folder).template or "")
        return named_templates()[named] if named else None

    def default_template(self) -> str:
        return "internvl2"

    def defaults(self) -> Mapping[str, Any]:
        """Tutorial 004's model and settings, which are XTuner's internvl_v2_internlm2_2b_qlora_finetune."""
        return {
            "model": "huggingface:OpenGVLab/InternVL2-2B",
            "method": {"name": "qlora", "rank": 128, "dropout": 0.05},
            "data": {"max_length": 6656},
            "train": {
                "epochs": 6.0,
                "global_batch_size": 16,
                "micro_batch_size": 4,
                "lr": 2e-5,
                "weight_decay": 0.05,
                "warmup_ratio": 0.03,
                "memory": "balanced",
            },
        }


def _travelled(folder: Path, family: InternVL) -> str | None:
    """The chat template that lies in the folder, else the family's own, in Jinja."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    own = family.own_template(folder)
    return own.jinja() if own else None


def layout_for(chat: Chat) -> Layout:
    """The tensor mapping of such a model's checkpoint."""
    return InternVLLayout(Inside(layout_of(chat.llm_config) if chat.language == "internlm2" else SameLayout()))


def _skeleton(chat: Chat, folder: Path) -> PreTrainedModel:
    from ftx_internvl.modeling import InternVLChat

    return skeleton(
        lambda: InternVLChat(native_config(chat, str(folder / "config.json"))), f"{folder}: config.json makes"
    )


def _check_projector(chat: Chat, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ModelError when the projector takes something else than the tower gives, or gives what nobody takes."""
    given = int(chat.vision_config.hidden_size / chat.downsample_ratio**2)
    taken = shapes.get("mlp1.1.weight", ())
    if len(taken) == 2 and taken[1] != given:
        raise ModelError(
            f"the vision tower gives {given} numbers a place (width {chat.vision_config.hidden_size}, downsample_ratio "
            f"{chat.downsample_ratio}), but the projector mlp1 takes {taken[1]}: they are of different models"
        )
    width = chat.llm_config.get("hidden_size")
    if len(taken) == 2 and taken[0] != width:
        raise ModelError(f"the projector mlp1 gives {taken[0]} numbers a place, but the language model takes {width}")
