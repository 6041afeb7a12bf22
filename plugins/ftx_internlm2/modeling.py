"""The native model classes: Llama's, with InternLM2's config keys and its dynamic rope kept stateless."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from transformers import LlamaConfig, LlamaForCausalLM, WeightConverter
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightRenaming
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ftx.rope import sequence_lengths
from ftx_internlm2.layout import FUSED, HEAD, PARTS, RENAMED, join_wqkv, split_wqkv


class InternLM2Config(LlamaConfig):  # type: ignore[misc]
    """LlamaConfig that reads InternLM2's config.json, whose `bias` is Llama's `attention_bias`."""

    model_type = "internlm2"
    attribute_map: ClassVar = {"bias": "attention_bias"}


class InternLM2RotaryEmbedding(LlamaRotaryEmbedding):  # type: ignore[misc]
    """Rope whose dynamic scaling depends on a sequence's own length alone.

    Sequences are told apart by positions that begin anew, as in packed and padded rows. The official code keeps the
    base it once enlarged for a long row, so that a short row afterwards gives other logits than before; transformers'
    Llama keeps it too until a row fits the trained length. Ours keeps
    nothing: a row's result never depends on what the model saw earlier, so training is reproducible, resumable
    and free of the order of rows. With a KV cache each key stays rotated as it was, as in the official code.
    """

    @property
    def asks_beyond(self) -> int:
        """Tokens of a row above which the lengths of its sequences are looked at."""
        return int(self.config.max_position_embeddings)

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        freqs = position_ids[..., None].float() * self._frequencies(x, position_ids)
        emb = torch.cat((freqs, freqs), dim=-1)
        return emb.cos().to(x.dtype), emb.sin().to(x.dtype)

    def _frequencies(self, x: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Float32 [dims / 2], or [rows, tokens, dims / 2] where sequences of different lengths need different ones."""
        if self.rope_type != "dynamic":
            fixed: torch.Tensor = self.inv_freq.to(device=x.device, dtype=torch.float)
            return fixed
        # In training, where no cache lies before a row, this is known without waiting for a GPU.
        if self.training and position_ids.shape[-1] <= self.asks_beyond:
            short: torch.Tensor = ROPE_INIT_FUNCTIONS["dynamic"](self.config, x.device, seq_len=None)[0]
            return short.float()
        lengths = sequence_lengths(position_ids).clamp(min=self.config.max_position_embeddings)
        different, place = torch.unique(lengths, return_inverse=True)
        made = [ROPE_INIT_FUNCTIONS["dynamic"](self.config, x.device, seq_len=length)[0] for length in different]
        table = torch.stack(made).to(device=x.device, dtype=torch.float)
        chosen: torch.Tensor = table[0] if len(made) == 1 else table[place]
        return chosen


class InternLM2ForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    """Llama under InternLM2's config; its official checkpoints load through the mapping below."""

    config_class = InternLM2Config

    def __init__(self, config: InternLM2Config) -> None:
        super().__init__(config)
        self.model.rotary_emb = InternLM2RotaryEmbedding(config)


class _SplitWqkv(ConversionOps):  # type: ignore[misc]
    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        tensor = next(iter(input_dict.values()))
        tensor = tensor[0] if isinstance(tensor, list) else tensor
        heads = kwargs["config"].num_attention_heads
        kv_heads = kwargs["config"].num_key_value_heads
        parts = split_wqkv(tensor, kv_heads, heads // kv_heads)
        return {name: part.contiguous() for name, part in zip(target_patterns, parts, strict=True)}

    @property
    def reverse_op(self) -> ConversionOps:
        return _JoinWqkv()


class _JoinWqkv(ConversionOps):  # type: ignore[misc]
    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        q, k, v = (t[0] if isinstance(t, list) else t for t in (input_dict[p] for p in source_patterns))
        return {target_patterns[0]: join_wqkv(q, k, v, kwargs["config"].num_key_value_heads)}

    @property
    def reverse_op(self) -> ConversionOps:
        return _SplitWqkv()


def _register() -> None:
    mapping: list[WeightConverter | WeightRenaming] = [
        WeightRenaming(official.replace(".", r"\."), native) for official, native in RENAMED.items()
    ]
    mapping.append(WeightRenaming(rf"^{HEAD[0]}\.", f"{HEAD[1]}."))
    mapping.append(WeightConverter(FUSED, list(PARTS), operations=[_SplitWqkv()]))
    register_checkpoint_conversion_mapping("InternLM2ForCausalLM", mapping, overwrite=True)


_register()
