"""Asking a model: a base, an adapter on its base, or a merged model, with the template it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.adapters import attached
from ftx.answer_text import AnswerText
from ftx.artifact import Artifact, family_of
from ftx.contracts import ImageProcessor, ModelFamily
from ftx.data.conversation import IMAGE, Message, Picture, RowError
from ftx.data.encode import refuse_strange_characters
from ftx.data.images import look_at, open_picture
from ftx.data.template import Template
from ftx.data.tokens import Tokenizer
from ftx.errors import ModelError, RecipeError
from ftx.export.merge import adapter_base
from ftx.few_bits import quantization, refuse_narrow
from ftx.plan import chosen_template, find_family, generation_eos
from ftx.train.fit import arithmetic

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ftx.plugins import Registry


TAG = "<image>"


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


def refuse_strange(text: str) -> None:
    """Raise RecipeError for what is no text: half a character, or NUL."""
    try:
        refuse_strange_characters(text)
    except RowError as error:
        raise RecipeError(f"{error.reason}; ask in whole UTF-8") from None


@dataclass
class Talk:
    """A loaded model with its tokenizer, template, stop ids and eyes, if it has any, and the conversation so far.

    `max_positions` are the tokens that the model was made for, of prompt and answer together.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    template: Template
    stop_ids: list[int]
    images: ImageProcessor | None = None
    system: str | None = None
    history: list[Message] = field(default_factory=list)
    max_positions: int = 2048

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
        or a picture that cannot be shown.
        """
        for text in (question, self.system or ""):
            refuse_strange(text)
        return self._reply([*self.history, self.question(question, images)], sampling, show)

    def tell(self, result: str, sampling: Sampling, show: Callable[[str], None] | None = None) -> Answer:
        """The answer after a tool that the last one called gave back `result`. Raises RecipeError."""
        refuse_strange(result)
        return self._reply([*self.history, Message("tool", result)], sampling, show)

    def _reply(self, asked: list[Message], sampling: Sampling, show: Callable[[str], None] | None) -> Answer:
        head = [Message("system", self.system)] if self.system else []
        answer = self.answer([*head, *asked], sampling, show)
        self.history = [*asked, Message("assistant", answer.text)]
        return answer

    def question(self, text: str, images: Sequence[Path]) -> Message:
        """The user's message with its pictures looked at. Raises RecipeError for one that cannot be shown."""
        if not images:
            return Message("user", text)
        if self.images is None:
            raise RecipeError(f"image {images[0]}: this model reads text alone")
        try:
            pictures = tuple(look_at(path.parent, path.name) for path in images)
        except RowError as error:
            raise RecipeError(f"{error.reason}; {error.remedy}") from None
        if IMAGE in text:
            raise RecipeError("the question holds the character U+FFFC, which stands for pictures; remove it")
        marks = text.count(TAG)
        if marks and marks != len(images):
            raise RecipeError(f"the question has {marks} {TAG} marks and {len(images)} images; give one for each")
        said = text.replace(TAG, IMAGE) if marks else f"{IMAGE}\n" * len(images) + text
        return Message("user", said, images=tuple(map(str, images)), pictures=pictures)

    def refuse_too_long(self, question: str, images: Sequence[Path] = ()) -> None:
        """Raise RecipeError for a question that, after the history, leaves no room for an answer."""
        refuse_strange(question)
        head = [Message("system", self.system)] if self.system else []
        tokens = len(self.prompt([*head, *self.history, self.question(question, images)]))
        if tokens >= self.max_positions:
            raise RecipeError(
                f"the conversation has {tokens:,} tokens and the model's context {self.max_positions:,}; ask a shorter "
                "question, or begin anew (/reset)"
            )

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the prompt, IMAGE_ID for each feature of a picture. Raises RowError where the template refuses it."""
        pictures: list[Picture] = [picture for message in messages for picture in message.pictures]
        if not pictures or self.images is None:
            return self.template.prompt(messages, self.tokenizer)
        places = self.images.lay_out([(picture.width, picture.height) for picture in pictures])
        return self.template.prompt(messages, self.tokenizer, places)

    def _shown(self, messages: Sequence[Message]) -> tuple[list[int], dict[str, torch.Tensor]]:
        """The prompt's ids, and what else the model takes."""
        pictures: list[Picture] = [picture for message in messages for picture in message.pictures]
        if not pictures or self.images is None:
            return self.prompt(messages), {}
        pixels = self.images.pixels([[open_picture(picture) for picture in pictures]])
        return self.prompt(messages), {"pixel_values": pixels.to(self.model.device)}

    def answer(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        show: Callable[[str], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Answer:
        """The answer to a whole conversation; the history is neither read nor changed.

        `show` gets the text as it comes. `stop` is asked after each token; where it says true, the answer ends there.
        """
        import torch
        from transformers import GenerationConfig

        torch.manual_seed(sampling.seed)
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=sampling.temperature > 0,
            temperature=sampling.temperature or 1.0,
            top_p=sampling.top_p,
            eos_token_id=self.stop_ids,
            pad_token_id=self.tokenizer.pad_id,
        )
        prompt, seen = self._shown(messages)
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
                **seen,
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
    if not path.is_dir():
        raise ModelError(f"{path} does not exist or is no folder")
    artifact = Artifact.find(path)
    folder = artifact.folder if artifact else path
    if artifact and not other_template:
        _refuse_other_template(artifact, template)
    adapter = (folder / "adapter_config.json").is_file()
    model_folder = (base or adapter_base(folder)) if adapter else folder
    if not model_folder.is_dir():
        raise ModelError(f"the base model {model_folder} is not there; give --base FOLDER")
    family = find_family({**family_of(artifact), **(options or {})}, model_folder, registry)
    if adapter and artifact and family.fingerprint(model_folder) != artifact.manifest["base"]["fingerprint"]:
        raise ModelError(f"{model_folder} is not the base this adapter was trained on (its weights differ)")
    facts = family.inspect(model_folder)
    model = _load(family, model_folder, folder if adapter else None, device, bits)
    tokenizer = family.tokenizer(model_folder)
    eos = generation_eos(folder) | generation_eos(model_folder)
    chosen = chosen_template(folder, template, tokenizer, family, model_folder)
    images = family.image_processor(model_folder)
    stop_ids = sorted(set(chosen.stop_ids(tokenizer)) | eos)
    return Talk(model, tokenizer, chosen, stop_ids, images, max_positions=facts.max_positions)


def _refuse_other_template(artifact: Artifact, wanted: str) -> None:
    trained = str(artifact.plan["template"]["name"])
    if wanted not in ("auto", trained):
        raise RecipeError(
            f"--template: {artifact.folder} was trained with template '{trained}' and has not learnt to stop with "
            f"'{wanted}'; leave --template out, or add --other-template to try it all the same"
        )


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
