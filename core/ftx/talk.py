"""Asking a model: a base, an adapter on its base, or a merged model, with the template it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.adapters import attached
from ftx.answer_text import AnswerText
from ftx.contracts import ModelFamily
from ftx.data.conversation import Message
from ftx.few_bits import quantization, refuse_narrow
from ftx.reader import Reader, find_place, refuse_strange, under
from ftx.train.fit import arithmetic

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ftx.plugins import Registry


COLDEST = 0.01  # below this temperature sampling is greedy, but for numbers that overflow


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy; `max_new_tokens` bounds an answer; texts in `stop` end it before them."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """`text` without the stop token or word; `stopped` says whether the model ended it itself, or by `word`."""

    text: str
    stopped: bool
    tokens: int
    word: str | None = None


@dataclass(kw_only=True)
class Talk(Reader):
    """A loaded model, how it is asked, and the conversation so far."""

    model: PreTrainedModel
    system: str | None = None
    history: list[Message] = field(default_factory=list)

    def reset(self) -> None:
        self.history.clear()

    def ask(
        self,
        question: str,
        sampling: Sampling,
        show: Callable[[str], None] | None = None,
        images: Sequence[Path] = (),
    ) -> Answer:
        """The answer to `question` after the history, which then holds both. `show` gets the text as it comes.

        `images` stand where the question has <image>, or before it. Raises RecipeError for a question that is no text,
        a picture that cannot be shown, what the template refuses, or a conversation that leaves no room to answer.
        """
        return self._reply([*self.history, self.question(question, images)], sampling, show)

    def tell(self, result: str, sampling: Sampling, show: Callable[[str], None] | None = None) -> Answer:
        """The answer after a tool that the last one called gave back `result`. Raises RecipeError."""
        refuse_strange(result)
        return self._reply([*self.history, Message("tool", result)], sampling, show)

    def _reply(self, asked: list[Message], sampling: Sampling, show: Callable[[str], None] | None) -> Answer:
        answer = self.answer(under(self.system, asked), sampling, show)
        self.history = [*asked, Message("assistant", answer.text)]
        return answer

    def answer(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        show: Callable[[str], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Answer:
        """The answer to a whole conversation; the history is neither read nor changed.

        `show` gets the text as it comes. `stop` is asked after each token; where it says true, the answer ends there.
        It ends with the model's context in any case. Raises RecipeError as `Reader.inputs`.
        """
        import torch
        from transformers import GenerationConfig

        from ftx.seeds import seed_device

        prompt, seen = self.inputs(messages)
        warm = sampling.temperature >= COLDEST
        seed_device(sampling.seed, self.model.device)
        config = GenerationConfig(
            max_new_tokens=min(sampling.max_new_tokens, self.max_positions - len(prompt)),
            do_sample=warm,
            temperature=sampling.temperature if warm else 1.0,
            top_p=sampling.top_p,
            eos_token_id=self.stop_ids,
            pad_token_id=self.tokenizer.pad_id,
        )
        ids = torch.tensor([prompt], device=self.model.device)
        text = AnswerText(self.tokenizer, self.stop_ids, sampling.stop, show)
        watched = show is not None or bool(sampling.stop)
        with torch.inference_mode():
            out: Any = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                streamer=text if watched else None,
                stopping_criteria=_criteria(lambda: text.word is not None or (stop is not None and stop())),
                **{name: tensor.to(self.model.device) for name, tensor in seen.items()},
            )
        new = out[0, len(prompt) :].tolist()
        if text.word is not None:
            return Answer(text.text, True, text.tokens, text.word)
        stopped = bool(new) and new[-1] in self.stop_ids
        return Answer(self.tokenizer.decode(new[:-1] if stopped else new), stopped, len(new))


def _criteria(ended: Callable[[], bool]) -> Any:
    """transformers' stopping criteria which end an answer as soon as `ended` says so."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Ended(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **rest: Any) -> torch.Tensor:
            return torch.full((input_ids.shape[0],), ended(), dtype=torch.bool, device=input_ids.device)

    return StoppingCriteriaList([Ended()])


def open_talk(
    path: Path,
    registry: Registry,
    *,
    base: Path | None = None,
    options: Mapping[str, Any] | None = None,
    template: str = "auto",
    other_template: bool = False,
    device: str = "auto",
    bits: int | None = None,
) -> Talk:
    """Load whatever `path` is: a model folder, a sealed artefact, a run's folder, or a peft adapter.

    An artefact is asked with the template it was trained with; `other_template` allows another. `options` are the
    family's name and options, over those that an artefact has. `bits` 4 or 8 holds the model in so many, by
    bitsandbytes. Raises ModelError, VerificationError, and RecipeError
    for a template that it was not trained with.
    """
    place = find_place(path, registry, base, options, template, other_template=other_template)
    reader = place.reader(template)
    return Talk(model=_load(place.family, place.folder, place.adapter, device, bits), **vars(reader))


def _load(
    family: ModelFamily, folder: Path, adapter: Path | None, device: str, bits: int | None = None
) -> PreTrainedModel:
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = arithmetic("auto", device)
    how = quantization(bits, dtype, family) if bits else None
    model = family.load(folder, dtype=dtype, device=device, attention="sdpa", quantization=how)
    if bits and device == "cpu":
        refuse_narrow(model)
    return model if adapter is None else attached(model, adapter).eval()
