"""How a model is asked: a conversation becomes what the model takes, without the model itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.artifact import Artifact, family_of
from ftx.context import refuse_too_long
from ftx.contracts import ImageProcessor, ModelFamily
from ftx.data.conversation import IMAGE, Message, Picture, RowError, refuse_strange_characters
from ftx.data.images import look_at, open_picture
from ftx.data.template import Template
from ftx.data.tokens import Tokenizer
from ftx.errors import ModelError, RecipeError
from ftx.export.merge import adapter_base
from ftx.plan import chosen_template, find_family, generation_eos

if TYPE_CHECKING:
    import torch

    from ftx.plugins import Registry


TAG = "<image>"


def refuse_strange(text: str) -> None:
    """Raise RecipeError for what is no text: half a character, or NUL."""
    try:
        refuse_strange_characters(text)
    except RowError as error:
        raise RecipeError(f"{error.reason}; ask in whole UTF-8") from None


def under(system: str | None, messages: Sequence[Message]) -> list[Message]:
    """The messages after the system message, where there is one. Raises RecipeError for one that is no text."""
    refuse_strange(system or "")
    return [*([Message("system", system)] if system else []), *messages]


@dataclass(kw_only=True)
class Reader:
    """A model's tokenizer, template, stop ids and eyes, if it has any.

    `max_positions` are the tokens that the model was made for, of prompt and answer together.
    """

    tokenizer: Tokenizer
    template: Template
    stop_ids: list[int]
    max_positions: int
    images: ImageProcessor | None = None

    def question(self, text: str, images: Sequence[Path]) -> Message:
        """The user's message with its pictures looked at. Raises RecipeError for what is no text or cannot be shown."""
        refuse_strange(text)
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

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the prompt, IMAGE_ID for each feature of a picture.

        Raises RecipeError where the template refuses it, TooLong where it fills the model's context.
        """
        sizes = [(picture.width, picture.height) for picture in _pictures(messages)]
        places = self.images.lay_out(sizes) if sizes and self.images is not None else ()
        try:
            ids = self.template.prompt(messages, self.tokenizer, places)
        except RowError as error:
            raise RecipeError(f"{error.reason}; {error.remedy}") from None
        refuse_too_long(len(ids), self.max_positions)
        return ids

    def inputs(self, messages: Sequence[Message]) -> tuple[list[int], dict[str, torch.Tensor]]:
        """The prompt's ids, and what else the model takes. Raises RecipeError as `prompt`, and for a broken picture."""
        ids, pictures = self.prompt(messages), _pictures(messages)
        if not pictures or self.images is None:
            return ids, {}
        try:
            shown = [open_picture(picture) for picture in pictures]
        except RowError as error:
            raise RecipeError(f"{error.reason}; {error.remedy}") from None
        return ids, {"pixel_values": self.images.pixels([shown])}


def _pictures(messages: Sequence[Message]) -> list[Picture]:
    return [picture for message in messages for picture in message.pictures]


@dataclass(frozen=True)
class Place:
    """Where a model lies: in `folder`, or as the `adapter` of the base there."""

    folder: Path
    adapter: Path | None
    family: ModelFamily

    def reader(self, template: str) -> Reader:
        """How it is asked, with the template of that name. Raises ModelError, RecipeError."""
        source = self.adapter or self.folder
        facts = self.family.inspect(self.folder)
        tokenizer = self.family.tokenizer(self.folder)
        chosen = chosen_template(source, template, tokenizer, self.family, self.folder)
        eos = generation_eos(source) | generation_eos(self.folder)
        return Reader(
            tokenizer=tokenizer,
            template=chosen,
            stop_ids=sorted(set(chosen.stop_ids(tokenizer)) | eos),
            max_positions=facts.max_positions,
            images=self.family.image_processor(self.folder),
        )


def find_place(
    path: Path,
    registry: Registry,
    base: Path | None,
    options: Mapping[str, Any] | None = None,
    template: str = "auto",
    *,
    other_template: bool = False,
) -> Place:
    """Where the model of `path` lies: see `ftx.talk.open_talk`. Raises ModelError, VerificationError, RecipeError."""
    if not path.is_dir():
        raise ModelError(f"{path} does not exist or is no folder")
    artifact = Artifact.find(path)
    folder = artifact.folder if artifact else path
    if artifact and not other_template:
        _refuse_other_template(artifact, template)
    adapter = folder if (folder / "adapter_config.json").is_file() else None
    whole = (base or adapter_base(folder)) if adapter else folder
    if not whole.is_dir():
        raise ModelError(f"the base model {whole} is not there; give --base FOLDER")
    family = find_family({**family_of(artifact), **(options or {})}, whole, registry)
    if adapter and artifact and family.fingerprint(whole) != artifact.manifest["base"]["fingerprint"]:
        raise ModelError(f"{whole} is not the base this adapter was trained on (its weights differ)")
    return Place(whole, adapter, family)


def _refuse_other_template(artifact: Artifact, wanted: str) -> None:
    trained = str(artifact.plan["template"]["name"])
    if wanted not in ("auto", trained):
        raise RecipeError(
            f"--template: {artifact.folder} was trained with template '{trained}' and has not learnt to stop with "
            f"'{wanted}'; leave --template out, or add --other-template to try it all the same"
        )
