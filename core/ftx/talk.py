"""Asking a model: a base, an adapter on its base, or a merged model, with the template it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.adapters import attached
from ftx.artifact import Artifact, family_of
from ftx.contracts import ImageProcessor, ModelFamily
from ftx.data.conversation import IMAGE, Message, Picture, RowError
from ftx.data.encode import refuse_strange_characters
from ftx.data.images import look_at, open_picture
from ftx.data.jinja import JinjaTemplate
from ftx.data.template import Template
from ftx.data.tokens import Tokenizer
from ftx.errors import ModelError, RecipeError
from ftx.export.merge import adapter_base
from ftx.few_bits import quantization, refuse_narrow
from ftx.plan import family_template, find_family, generation_eos
from ftx.stop_words import StopWords
from ftx.train.fit import arithmetic

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ftx.plugins import Registry


TAG = "<image>"


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy; `max_new_tokens` bounds an answer that does not stop; so do texts in `stop`."""

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


def _refuse_strange(text: str) -> None:
    try:
        refuse_strange_characters(text)
    except RowError as error:
        raise RecipeError(f"{error.reason}; ask in whole UTF-8") from None


@dataclass
class Talk:
    """A loaded model with its tokenizer, template, stop ids and eyes, if it has any, and the conversation so far."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    template: Template
    stop_ids: list[int]
    images: ImageProcessor | None = None
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
        or a picture that cannot be shown.
        """
        for text in (question, self.system or ""):
            _refuse_strange(text)
        return self._reply([*self.history, self._question(question, images)], sampling, show)

    def tell(self, result: str, sampling: Sampling, show: Callable[[str], None] | None = None) -> Answer:
        """The answer after a tool that the last one called gave back `result`. Raises RecipeError."""
        _refuse_strange(result)
        return self._reply([*self.history, Message("tool", result)], sampling, show)

    def _reply(self, asked: list[Message], sampling: Sampling, show: Callable[[str], None] | None) -> Answer:
        head = [Message("system", self.system)] if self.system else []
        answer = self._generate([*head, *asked], sampling, show)
        self.history = [*asked, Message("assistant", answer.text)]
        return answer

    def _question(self, text: str, images: Sequence[Path]) -> Message:
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

    def _shown(self, messages: Sequence[Message]) -> tuple[list[int], dict[str, torch.Tensor]]:
        """The prompt's ids, and what else the model takes."""
        pictures: list[Picture] = [picture for message in messages for picture in message.pictures]
        if not pictures or self.images is None:
            return self.template.prompt(messages, self.tokenizer), {}
        places = self.images.lay_out([(picture.width, picture.height) for picture in pictures])
        pixels = self.images.pixels([[open_picture(picture) for picture in pictures]])
        return self.template.prompt(messages, self.tokenizer, places), {"pixel_values": pixels.to(self.model.device)}

    def _generate(self, messages: Sequence[Message], sampling: Sampling, show: Callable[[str], None] | None) -> Answer:
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
        streamer = _Stream(self.tokenizer, self.stop_ids, show, sampling.stop) if show else None
        words = StopWords(self.tokenizer, sampling.stop, len(prompt))
        with torch.inference_mode():
            out: Any = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                streamer=streamer,
                stopping_criteria=[words.said] if sampling.stop else None,
                **seen,
            )
        new = out[0, len(prompt) :].tolist()
        stopped = bool(new) and new[-1] in self.stop_ids
        text, word = words.cut(self.tokenizer.decode(new[:-1] if stopped else new))
        return Answer(text, stopped or word is not None, len(new), word)


class _Stream:
    """Shows text as soon as its bytes make whole characters."""

    def __init__(
        self, tokenizer: Tokenizer, stop_ids: list[int], show: Callable[[str], None], words: tuple[str, ...] = ()
    ) -> None:
        self._words = StopWords(tokenizer, words)
        self._tokenizer = tokenizer
        self._stop = set(stop_ids)
        self._show = show
        self._ids: list[int] = []
        self._shown = 0
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self._prompt:  # generate hands over the prompt first
            self._prompt = False
            return
        self._ids += [i for i in value.flatten().tolist() if i not in self._stop]
        text = self._tokenizer.decode(self._ids)
        if not text.endswith("\ufffd"):  # the mark of a character whose bytes are not all there yet
            self._flush(self._words.held_back(text))

    def end(self) -> None:
        self._flush(self._words.cut(self._tokenizer.decode(self._ids))[0])

    def _flush(self, text: str) -> None:
        if len(text) > self._shown:
            self._show(text[self._shown :])
            self._shown = len(text)


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
    family = find_family({**family_of(artifact), **(options or {})}, model_folder, registry)
    if adapter and artifact and family.fingerprint(model_folder) != artifact.manifest["base"]["fingerprint"]:
        raise ModelError(f"{model_folder} is not the base this adapter was trained on (its weights differ)")
    family.inspect(model_folder)
    model = _load(family, model_folder, folder if adapter else None, device, bits)
    tokenizer = family.tokenizer(model_folder)
    eos = generation_eos(folder) | generation_eos(model_folder)
    chosen = _template(folder, template, tokenizer, family, model_folder)
    images = family.image_processor(model_folder)
    return Talk(model, tokenizer, chosen, sorted(set(chosen.stop_ids(tokenizer)) | eos), images)


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


def _template(folder: Path, name: str, tokenizer: Tokenizer, family: ModelFamily, base: Path) -> Template:
    travelled = folder / "chat_template.jinja"
    if name == "auto" and travelled.is_file():
        return JinjaTemplate(travelled.read_text("utf-8"), tokenizer)
    return family_template(name, tokenizer, family, base)
