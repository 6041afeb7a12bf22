"""The InternLM2 family: 1.8B, 7B, 20B, base and chat, and whatever else has its layout."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ftx import Layout, ModelError, ModelFacts, ModelFamily
from ftx.checkpoint_files import Checkpoint, is_computed
from ftx.data.tokens import Tokenizer
from ftx.export.weights import write_shards
from ftx.pretrained import load_tokenizer, loaded
from ftx_internlm2.config import expected, known, read_config
from ftx_internlm2.layout import layout_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TEMPLATE, STOPS = "chat_template.jinja", "generation_config.json"


class InternLM2(ModelFamily):
    """InternLM2 in the official layout (safetensors or .bin), on transformers' Llama.

    Ropes: default, linear and dynamic; MHA, GQA and MQA; with or without bias. `auto_map` is ignored.
    """

    name = "internlm2"
    varlen = True
    layouts: ClassVar[tuple[str, ...]] = ("official", "transformers")

    def inspect(self, folder: Path) -> ModelFacts:
        config = read_config(folder)
        checkpoint = Checkpoint.of(folder)
        _compare(expected(config), checkpoint, folder)
        dtypes = {info.dtype for info in checkpoint.tensors.values()}
        notes = ("auto_map in config.json is ignored: ftx runs no code from a model folder",)
        return ModelFacts(
            architecture="InternLM2ForCausalLM",
            parameters=sum(math.prod(info.shape) for info in checkpoint.tensors.values()),
            dtype="+".join(sorted(dtypes)),
            size_bytes=checkpoint.size(),
            max_positions=int(config.get("max_position_embeddings", 2048)),
            vocab_size=int(config["vocab_size"]),
            notes=notes if "auto_map" in config else (),
        )

    def load(
        self, folder: Path, *, dtype: torch.dtype, device: str, attention: str, quantization: Any = None
    ) -> PreTrainedModel:
        from ftx_internlm2.modeling import InternLM2Config, InternLM2ForCausalLM

        config = InternLM2Config(**known(read_config(folder)))
        return loaded(InternLM2ForCausalLM, folder, config, dtype, device, attention, quantization)

    def tokenizer(self, folder: Path) -> Tokenizer:
        return load_tokenizer(folder, add_bos_token=True)

    def layout(self, folder: Path) -> Layout:
        return layout_of(read_config(folder))

    def convert(self, folder: Path, layout: str, out: Path) -> None:
        from ftx_internlm2.native import write_native

        checkpoint = self.checkpoint(folder)
        if layout == "official":
            write_shards(checkpoint, out, checkpoint.reader())
            self.copy_companions(folder, out)
        else:
            write_native(read_config(folder), checkpoint, self.tokenizer(folder), _travelled(folder), out)
        for name in (TEMPLATE, STOPS):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, out / name)

    def lora_targets(self, model: PreTrainedModel) -> list[str]:
        return ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

    def default_template(self) -> str:
        return "internlm2_chat"


def _travelled(folder: Path) -> str | None:
    """The chat template that lies in the folder."""
    file = folder / TEMPLATE
    return file.read_text("utf-8") if file.is_file() else None


def _compare(expected: dict[str, tuple[int, ...]], checkpoint: Checkpoint, folder: Path) -> None:
    stored = checkpoint.tensors
    missing = sorted(expected.keys() - stored.keys())
    # Old exports carry the rotary buffer, which is computed and holds nothing learnt.
    extra = sorted(n for n in stored.keys() - expected.keys() if not is_computed(n))
    problems = []
    if missing:
        problems.append(f"{folder} lacks {len(missing)} weights of an InternLM2, such as {missing[0]}")
    if extra:
        problems.append(f"{folder} holds {len(extra)} weights that no InternLM2 has, such as {extra[0]}")
    for name, shape in expected.items():
        if name in stored and stored[name].shape != shape:
            problems.append(f"{name} has shape {stored[name].shape}, but config.json makes it {shape}")
            break
    if problems:
        raise ModelError(*problems)
