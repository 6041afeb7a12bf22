"""The family of all causal language models whose class and layout are transformers' own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx import Layout, ModelError, ModelFacts, ModelFamily
from ftx.checkpoint_files import Checkpoint, read_json
from ftx.data.tokens import Tokenizer
from ftx.export.same import SameLayout
from ftx.pretrained import load_tokenizer, loaded

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

SHOWN = 3  # weights that a sentence names


class Transformers(ModelFamily):
    """Llama, Qwen, Mistral, Gemma, Phi and whatever else transformers has natively, in its own layout.

    Targets are the decoder's linear layers; template and stop tokens are those of the folder. Models that transformers
    stores otherwise than it holds them, as fused experts are, are refused. `auto_map` is ignored.
    """

    name = "transformers"

    def inspect(self, folder: Path) -> ModelFacts:
        config = _config(folder)
        checkpoint = Checkpoint.of(folder)
        native = _skeleton(config)
        _compare(native, config, checkpoint, folder)
        dtypes = {info.dtype for info in checkpoint.tensors.values()}
        return ModelFacts(
            architecture=native.__class__.__name__,
            parameters=sum(parameter.numel() for parameter in native.parameters()),
            dtype="+".join(sorted(dtypes)),
            size_bytes=checkpoint.size(),
            max_positions=int(getattr(config, "max_position_embeddings", None) or 2048),
            vocab_size=int(config.vocab_size),
            notes=() if _has_sdpa(config) else ("this model's attention exists in the plain form alone: eager",),
        )

    def load(
        self, folder: Path, *, dtype: torch.dtype, device: str, attention: str, quantization: Any = None
    ) -> PreTrainedModel:
        config = _config(folder)
        if attention == "sdpa" and not _has_sdpa(config):
            attention = "eager"
        return loaded(_class(config), folder, config, dtype, device, attention, quantization)

    def tokenizer(self, folder: Path) -> Tokenizer:
        return load_tokenizer(folder)

    def layout(self, folder: Path) -> Layout:
        return SameLayout()

    def lora_targets(self, model: PreTrainedModel) -> list[str]:
        import torch

        head = model.get_output_embeddings()
        linear = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        }
        return sorted(linear)


def is_native(config: Mapping[str, Any]) -> bool:
    """Whether transformers has a causal language model of this config's type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return config.get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _config(folder: Path) -> PreTrainedConfig:
    """The folder's config as transformers' class of its type. Raises ModelError."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    values = read_json(folder / "config.json")
    kind = values.get("model_type")
    if not is_native(values):
        raise ModelError(f"{folder} is a '{kind}' model, which transformers has no causal language model for")
    if "quantization_config" in values:
        raise ModelError(f"{folder} is quantised; tune the model it was made from")
    values.pop("auto_map", None)
    try:
        return CONFIG_MAPPING[kind].from_dict(values)
    # Each config class checks its values in its own way.
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {' '.join(str(error).split())}") from None


def _class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    found: type[PreTrainedModel] = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return found


def _has_sdpa(config: PreTrainedConfig) -> bool:
    """Whether torch's own attention computes what the model needs, as it does not where logits are capped."""
    return bool(_class(config)._supports_sdpa)


def _skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """The model without memory for its weights. Raises ModelError when its sizes do not fit each other."""
    import torch

    try:
        with torch.device("meta"):
            return _class(config)(config)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(f"config.json makes no model: {str(error).splitlines()[0]}") from None


def _compare(native: PreTrainedModel, config: PreTrainedConfig, checkpoint: Checkpoint, folder: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in native.state_dict().items()}
    stored = {name: info.shape for name, info in checkpoint.tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    if getattr(config, "tie_word_embeddings", False) and "lm_head.weight" not in stored:
        expected.pop("lm_head.weight", None)
    problems = []
    missing, extra = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    if missing and extra and _is_converted(native):
        raise ModelError(
            f"{folder}: transformers holds a {config.model_type} otherwise than it is stored ({extra[0]}), which ftx "
            "cannot write back yet"
        )
    if missing:
        problems.append(f"{folder} lacks {len(missing)} weights of a {config.model_type}: {_some(missing)}")
    if extra:
        problems.append(f"{folder} holds {len(extra)} weights that a {config.model_type} has not: {_some(extra)}")
    wrong = [name for name, shape in stored.items() if name in expected and expected[name] != shape]
    if wrong:
        problems.append(f"{wrong[0]} has shape {stored[wrong[0]]}, but config.json makes it {expected[wrong[0]]}")
    if problems:
        raise ModelError(*problems)


def _is_converted(native: PreTrainedModel) -> bool:
    """Whether transformers converts the model's checkpoints as it loads them, as it fuses experts."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    return bool(get_model_conversion_mapping(native))


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
