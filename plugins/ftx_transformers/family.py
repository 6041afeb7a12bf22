"""The family of all causal language models whose class is transformers' own."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx import Layout, ModelError, ModelFacts, ModelFamily
from ftx.checkpoint_files import Checkpoint, is_computed, read_json
from ftx.data.tokens import Tokenizer
from ftx.pretrained import config_of, load_tokenizer, loaded, skeleton, some
from ftx_transformers.layout import Place, PlacedLayout, misfit, places

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


class Transformers(ModelFamily):
    """Llama, Qwen, Mistral, Gemma, Phi and whatever else transformers has natively, in its own layout.

    Targets are the decoder's linear layers; template and stop tokens are those of the folder. Experts are written back
    one by one where they are stored so; LoRA leaves them as they are. `auto_map` is ignored.
    """

    name = "transformers"
    varlen = True

    def for_folder(self, folder: Path) -> ModelFamily:
        from ftx_transformers.seeing import TransformersVision, sees

        return TransformersVision() if sees(read_json(folder / "config.json")) else self

    def inspect(self, folder: Path) -> ModelFacts:
        config = self._config(folder)
        checkpoint = Checkpoint.of(folder)
        native = self._skeleton(folder)
        stored = _stored(checkpoint)
        found = places(native, stored)
        _compare(native, found, stored, folder)
        dtypes = {info.dtype for info in checkpoint.tensors.values()}
        return ModelFacts(
            architecture=native.__class__.__name__,
            parameters=sum(parameter.numel() for parameter in native.parameters()),
            dtype="+".join(sorted(dtypes)),
            size_bytes=checkpoint.size(),
            max_positions=int(getattr(config.get_text_config(), "max_position_embeddings", None) or 2048),
            vocab_size=int(config.get_text_config().vocab_size),
            notes=tuple(_notes(native, self.parts["language"], stored.keys() - found.keys())),
        )

    def load(
        self, folder: Path, *, dtype: torch.dtype, device: str, attention: str, quantization: Any = None
    ) -> PreTrainedModel:
        config = self._config(folder)
        model_class = self._class(config)
        # torch's own attention does not compute what some models need, as where logits are capped
        if attention == "sdpa" and not model_class._supports_sdpa:
            attention = "eager"
        return loaded(model_class, folder, config, dtype, device, attention, quantization)

    def tokenizer(self, folder: Path) -> Tokenizer:
        return load_tokenizer(folder)

    def layout(self, folder: Path) -> Layout:
        return PlacedLayout(places(self._skeleton(folder), _stored(Checkpoint.of(folder))))

    def lora_targets(self, model: PreTrainedModel) -> list[str]:
        import torch
        from transformers.pytorch_utils import Conv1D

        head = model.get_output_embeddings()
        linear = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
        }
        return sorted(linear)

    def _config(self, folder: Path) -> PreTrainedConfig:
        """The folder's config as transformers' class of its type. Raises ModelError."""
        values = read_json(folder / "config.json")
        if not is_native(values):
            kind = values.get("model_type")
            raise ModelError(f"{folder} is a '{kind}' model, which transformers has no causal language model for")
        return native_config(values, folder)

    def _class(self, config: PreTrainedConfig) -> type[PreTrainedModel]:
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        found: type[PreTrainedModel] = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        return found

    def _skeleton(self, folder: Path) -> PreTrainedModel:
        """The model without memory for its weights. Raises ModelError when its sizes do not fit each other."""
        config = self._config(folder)
        return skeleton(lambda: self._class(config)(config), "config.json makes")


def is_native(config: Mapping[str, Any]) -> bool:
    """Whether transformers has a causal language model of this config's type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return config.get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def native_config(values: dict[str, Any], folder: Path) -> PreTrainedConfig:
    """The values of a folder's config.json as transformers' class of its type. Raises ModelError."""
    if "quantization_config" in values:
        raise ModelError(f"{folder} is quantised; tune the model it was made from")
    return config_of({key: value for key, value in values.items() if key != "auto_map"}, str(folder / "config.json"))


def _stored(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shapes by name, without the rotary buffers of old exports, which are computed."""
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    return {name: shape for name, shape in shapes.items() if not is_computed(name)}


def _compare(
    native: PreTrainedModel, found: Mapping[str, Place], stored: Mapping[str, tuple[int, ...]], folder: Path
) -> None:
    """Raises ModelError with one sentence for each way in which the stored tensors do not make the model."""
    config = native.config
    expected = {name: tuple(tensor.shape) for name, tensor in native.state_dict().items()}
    held = {place.native for place in found.values()}
    missing = _unlike(expected.keys() - held, native._keys_to_ignore_on_load_missing)
    if getattr(config, "tie_word_embeddings", False):
        missing = [name for name in missing if name != "lm_head.weight"]
    extra = _unlike(stored.keys() - found.keys(), native._keys_to_ignore_on_load_unexpected)
    problems = []
    if missing:
        problems.append(f"{folder} lacks {len(missing)} weights of a {config.model_type}: {some(missing)}")
    if extra:
        problems.append(f"{folder} holds {len(extra)} weights that a {config.model_type} has not: {some(extra)}")
    problems += list(_unfit(expected, found, stored))[:1] or list(_unfilled(expected, found, stored))[:1]
    if problems:
        raise ModelError(*problems)


def _unfit(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Place], stored: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    """A sentence for each stored tensor whose shape is not that of its place."""
    for name, place in found.items():
        whole = expected[place.native]
        if place.index and place.shape(whole) != stored[name]:
            yield misfit(name, stored[name], place.native, whole)
        elif not place.index and whole != stored[name]:
            yield f"{name} has shape {stored[name]}, but config.json makes it {whole}"


def _unfilled(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Place], stored: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    """A sentence for each parameter that its stored parts do not fill."""
    parts: dict[str, list[str]] = {}
    for name, place in found.items():
        if place.index:
            parts.setdefault(place.native, []).append(name)
    for native, names in parts.items():
        numbers, needed = sum(math.prod(stored[name]) for name in names), math.prod(expected[native])
        if numbers < needed:
            yield (
                f"{native} is not whole: the {len(names)} tensors stored of it ({some(names)}) hold {numbers} of the "
                f"{needed} numbers that config.json gives it"
            )


def _unlike(names: Iterable[str], patterns: Iterable[str] | None) -> list[str]:
    """The names that none of the patterns is found in, sorted."""
    return sorted(name for name in names if not any(re.search(pattern, name) for pattern in patterns or ()))


def _notes(native: PreTrainedModel, language: str, carried: Collection[str]) -> Iterator[str]:
    if not native._supports_sdpa:
        yield "this model's attention exists in the plain form alone: eager"
    parameters = native.get_submodule(language).named_parameters()
    experts = sum(p.numel() for name, p in parameters if p.dim() == 3 and not name.endswith(".weight"))
    if experts:
        share = experts / sum(parameter.numel() for parameter in native.parameters())
        yield (
            f"the experts, {share:.0%} of the parameters, are fused: lora and qlora leave them as they are, in 16 or "
            "32 bits; full tunes them"
        )
    if carried:
        yield f"{len(carried)} weights that transformers has no use for are carried along: {some(sorted(carried))}"
