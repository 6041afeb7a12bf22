"""The contracts of parts. A part is a frozen, validated class whose fields are its options.

`QLoRA(rank=64)` in Python, `method: {name: qlora, rank: 64}` in a recipe and `--method qlora
--set method.rank=64` on the command line build the same object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from ftx.data.conversation import RowError
from ftx.errors import HubError, ModelError

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from transformers import PreTrainedModel

    from ftx.checkpoint_files import Checkpoint
    from ftx.data.conversation import Conversation
    from ftx.data.template import Template
    from ftx.data.tokens import Tokenizer
    from ftx.publish.credentials import Credential


class Part(BaseModel):
    """Base of all parts. `name` is what recipes call it; the fields are its options, none unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    name: ClassVar[str]
    kind: ClassVar[str]


@dataclass(frozen=True)
class Record:
    """One row as a source read it: `value` as parsed, and where it stood (`line` counts from 1).

    A row that is broken by itself has a RowError for its value, and is accounted for as the others are.
    """

    value: Any
    file: str
    line: int


class DataSource(Part, ABC):
    """Where rows come from.

    A whole plugin::

        class Inline(DataSource):
            name = "inline"
            rows: list[dict[str, Any]]

            def records(self):
                for line, row in enumerate(self.rows, 1):
                    yield Record(row, "inline", line)

            def fingerprint(self):
                return hash_text(repr(self.rows))
    """

    kind = "source"

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Every row in order. Raises DataError for what cannot be read at all."""

    def image_folder(self, record: Record) -> Path:
        """The folder that a record's image paths start from."""
        return Path(record.file).parent

    def resolved(self) -> str | None:
        """The commit that was read, for sources that have such a thing."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 of the content, so that an artefact can say what it was trained on."""


class DataFormat(Part, ABC):
    """How a row's value becomes a Conversation.

    `aliases` are other names by which recipes may call it. A format with a `refusal` is known so that its rows can be
    refused with that sentence.
    """

    kind = "format"
    aliases: ClassVar[tuple[str, ...]] = ()
    refusal: ClassVar[str | None] = None

    @abstractmethod
    def recognise(self, value: Any) -> str | None:
        """The evidence that `value` is of this format ("has 'messages'"), or None. Never raises."""

    @abstractmethod
    def parse(self, value: Any) -> Conversation:
        """The conversation in `value`. Raises `ftx.data.conversation.RowError` with reason and remedy."""

    def parse_all(self, value: Any) -> Sequence[Conversation]:
        """All conversations in `value`, for formats whose rows hold several. Raises RowError."""
        return [self.parse(value)]

    def unparse(self, conversation: Conversation) -> Any:
        """The conversation as a row of this format. Raises RowError when the format cannot hold or write it."""
        raise RowError(f"format {self.name} is read and not written", "convert to openai, sharegpt, xtuner or alpaca")


@dataclass(frozen=True)
class ModelFacts:
    """What a model folder holds, read without loading a tensor. `dtype` is that of the stored weights."""

    architecture: str
    parameters: int
    dtype: str
    size_bytes: int
    max_positions: int
    vocab_size: int
    notes: tuple[str, ...] = ()


class ImageProcessor(ABC):
    """How a model sees pictures: the places they take in a row, and the pixels that fill them."""

    @abstractmethod
    def key(self) -> Mapping[str, Any]:
        """All that `lay_out` depends on, as JSON values."""

    @abstractmethod
    def lay_out(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        """The token ids of each picture of a row, given width and height in pixels of all of them.

        `ftx.data.template.IMAGE_ID` stands for each feature; before and after them may be special tokens.
        """

    @abstractmethod
    def pixels(self, rows: Sequence[Sequence[Image.Image]]) -> torch.Tensor:
        """What the model takes for the RGB pictures of rows: float32 [tiles, 3, height, width], in order.

        Many threads call it at once: what holds the interpreter's lock, or wakes all cores, should be little.
        """


class Layout(ABC):
    """How a checkpoint's tensors map onto the parameters of the native model, tensor by tensor.

    Numbers are moved, never changed: what holds for the weights holds for an update of them.
    """

    @abstractmethod
    def native_names(self, stored: str) -> list[str]:
        """Names of the native parameters that the stored tensor `stored` holds all or a part of, in order.

        None for a tensor that is no part of the native model: it is carried along unchanged.
        """

    @abstractmethod
    def split(self, stored: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """The native parameters that are whole in a stored tensor, by name."""

    @abstractmethod
    def join(self, stored: str, native: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The stored tensor made of its native parameters, or cut out of the one it is a part of.

        The exact inverse of `split` where that gives all of them.
        """


class ModelFamily(Part, ABC):
    """A kind of model: how its folder is read, what LoRA tunes in it, how it is written back.

    The model that `load` returns is one of transformers' own classes or a subclass; no code from
    the model folder is ever run.
    """

    kind = "family"
    # Parts of the native model that are trained each in its own way, and the prefix of their modules' names.
    parts: ClassVar[Mapping[str, str]] = {"language": ""}
    # Whether the language model's attention may get samples end to end with their bounds instead of a mask.
    varlen: ClassVar[bool] = False
    # Layouts by name that `convert` can write.
    layouts: ClassVar[tuple[str, ...]] = ()

    def for_folder(self, folder: Path) -> ModelFamily:
        """This family, or the one of the same plugin that the folder's model is rather of. Raises ModelError."""
        return self

    @abstractmethod
    def inspect(self, folder: Path) -> ModelFacts:
        """Check the folder and say what it holds. Raises ModelError; loads no tensor."""

    @abstractmethod
    def load(
        self, folder: Path, *, dtype: torch.dtype, device: str, attention: str, quantization: Any = None
    ) -> PreTrainedModel:
        """The model in eval mode with parameters of `dtype` on `device`.

        `attention`: transformers' name of the implementation (sdpa, eager, ...). `quantization`: a
        transformers quantisation config or None. Raises ModelError.
        """

    @abstractmethod
    def tokenizer(self, folder: Path) -> Tokenizer:
        """The folder's tokenizer, built without remote code. Raises ModelError."""

    def image_processor(self, folder: Path) -> ImageProcessor | None:
        """How the folder's model sees pictures; None when it reads text alone. Raises ModelError."""
        return None

    def checkpoint(self, folder: Path) -> Checkpoint:
        """The folder's stored tensors. Raises ModelError."""
        from ftx.checkpoint_files import Checkpoint

        return Checkpoint.of(folder)

    @abstractmethod
    def layout(self, folder: Path) -> Layout:
        """The tensor mapping of the folder's checkpoint."""

    def fingerprint(self, folder: Path) -> str:
        """A quick identity of the folder's weights."""
        from ftx.atomic import weights_fingerprint

        return weights_fingerprint(folder)

    def copy_companions(self, folder: Path, out: Path) -> None:
        """Copy into `out` what belongs to the folder's model beside its weights: config, tokenizer and the like."""
        from ftx.artifact import copy_companions

        copy_companions(folder, out)

    def convert(self, folder: Path, layout: str, out: Path) -> None:
        """Write the folder's model, whole and bit for bit, into `out` in one of `layouts`. Raises ModelError."""
        raise ModelError(f"{folder}: family {self.name} writes no layout but the model's own")

    @abstractmethod
    def lora_targets(self, model: PreTrainedModel) -> list[str]:
        """Leaf names of the modules of the language model that LoRA tunes unless the recipe names others."""

    def own_template(self, folder: Path) -> Template | None:
        """The template of the family's official code, where that is another than the tokenizer's."""
        return None

    def default_template(self) -> str:
        """Name of the template for a tokenizer that brings no chat template."""
        return "default"

    def defaults(self) -> Mapping[str, Any]:
        """Recipe values that this family prefers to ftx's own, in the recipe's shape."""
        return {}


class TrainMethod(Part, ABC):
    """Which parameters are trained, and over what form of the base."""

    kind = "method"
    produces: ClassVar[str]  # "adapter" or "model"
    default_lr: ClassVar[float]

    def requirements(self) -> Iterable[str]:
        """One sentence per thing this machine lacks for the method."""
        return ()

    def storage_dtype(self, compute_dtype: torch.dtype) -> torch.dtype:
        """The dtype the base's parameters are held in; frozen ones need no more than the arithmetic."""
        return compute_dtype

    def quantization(self, compute_dtype: torch.dtype, family: ModelFamily) -> Any:
        """The quantisation the base is loaded with, or None."""
        return None

    @abstractmethod
    def prepare(self, model: PreTrainedModel, family: ModelFamily, resume: Path | None) -> PreTrainedModel:
        """The model with exactly the trained parameters requiring gradients, in training precision.

        `resume` is a checkpoint's weight folder to continue from.
        """

    @abstractmethod
    def save(self, model: PreTrainedModel, family: ModelFamily, base: Path, out: Path, *, final: bool) -> None:
        """Write the trained weights into the folder `out`.

        A checkpoint (`final=False`) keeps the precision of training; a final result takes the base's.
        """


@dataclass(frozen=True)
class AppModel:
    """The model an app is made for.

    `folder` holds it in a layout that transformers reads without remote code, with chat_template.jinja and the stop ids
    in generation_config.json. `license` is that of the model's card, None when it has none.
    """

    folder: Path
    model_type: str
    sees: bool
    license: str | None = None


class AppTemplate(Part, ABC):
    """A kind of app: a folder of files that `ftx app new` renders for one model. The fields are its options."""

    kind = "app"
    # Where an app may run: "local", "huggingface", "huggingface-docker", "modelscope", "openxlab".
    targets: ClassVar[tuple[str, ...]] = ("local",)
    health: ClassVar[str]  # path of the route that answers 200 when the app does
    system: str = ""  # system message of every conversation; the model's own when empty

    @abstractmethod
    def render(self, model: AppModel, target: str, out: Path) -> None:
        """Write the app's project into `out`. Raises FtxError for what the target cannot run.

        It starts by `python app.py`, on the port in the environment variable PORT.
        """

    def check(self, target: str) -> None:
        """Raise RecipeError for options that cannot be; asked before any model is looked at."""

    def carries_model(self) -> bool:
        """Whether the model lies in the project; else the app fetches it."""
        return True


class Publisher(Part, ABC):
    """A place that artefacts are published to. The fields are its options; a token is never one of them.

    The road is the same for all (`ftx.publish.road`): the files are rendered and checked by the gate, `listed` says
    what is there already, `push` sends what is missing and can be run again after any interruption, and what is
    `listed` anew is compared with what was to be sent. Making it public is a step of its own, the last one.
    """

    kind = "publisher"
    hub: ClassVar[str]  # what people call the place
    # The variables of the environment with its token and, where it asks for one, the user's name.
    variable: ClassVar[str] = ""
    user_variable: ClassVar[str] = ""
    # Further variables that it reads: of apps there, or of a client of the hub's.
    also: ClassVar[Sequence[str]] = ()
    # Where on its web pages tokens are made.
    settings_page: ClassVar[str] = "its settings"
    # Files that the hub itself puts into its repositories and that are not compared.
    keeps: ClassVar[Sequence[str]] = (".gitattributes",)
    # Kinds of artefacts it takes: "adapter", "merged", "model", "app".
    takes: ClassVar[Sequence[str]] = ("adapter", "merged", "model")
    configures: ClassVar[bool] = False  # whether it gives apps there their secrets and variables
    in_parts: ClassVar[bool] = False  # whether a large file is sent in parts, so that a cut costs one of them

    @classmethod
    def variables(cls) -> tuple[str, ...]:
        """Those that its token and the user's name are read from."""
        return tuple(name for name in (cls.variable, cls.user_variable) if name)

    def for_kind(self, kind: str) -> Publisher:
        """This publisher, or the one of the same plugin that artefacts of that kind go by."""
        return self

    @abstractmethod
    def address(self, repo: str) -> str:
        """The repository's page, for people."""

    def front_matter(self, card: Mapping[str, Any]) -> Mapping[str, Any]:
        """The model card's head as this hub wants it, from Hugging Face's form."""
        return card

    def login_address(self) -> str:
        """The address that the token is sent to, "https://..."; a login is for it alone, and "" knows none."""
        return ""

    def credential(self) -> Credential | None:
        """The token and where it came from; None without one. Raises RecipeError, HubError."""
        from ftx.publish.credentials import credential

        return credential(self.variable, self.login_address(), self.user_variable or None) if self.variable else None

    def identify(self, token: str, user: str | None, repo: str | None) -> Identity:
        """Whose token it is, by what the hub answers. `repo`: one of the user's, for places that tell no more.

        Raises HubError when the hub does not know the token.
        """
        raise HubError(f"{self.hub} does not tell whose a token is")

    def render(self, repo: str, kind: str, folder: Path) -> None:
        """Add to the rendered files in `folder` what this hub alone needs."""

    @abstractmethod
    def listed(self, repo: str, revision: str | None = None) -> Remote | None:
        """What the remote's `repo` holds at `revision` (a branch, tag or commit), by default now.

        None when there is no such repository. Raises HubError.
        """

    @abstractmethod
    def fetch(self, repo: str, remote: Remote, folder: Path) -> None:
        """Write the files of what was listed into `folder`, where those of a broken download may lie. Raises HubError.

        They are compared with the listing by who asks; what else is left there is removed.
        """

    @abstractmethod
    def push(self, repo: str, bundle: Bundle, remote: Remote | None, sent: Callable[[int], None]) -> str:
        """Make `repo` hold exactly the bundle's files, creating it as a private one where need be; the revision.

        `remote` is what was listed before: when it is no longer so, nothing is changed. `sent` gets the bytes sent so
        far. Raises HubError.
        """

    def of_models(self) -> Publisher:
        """Of a publisher of apps: the one by which the models lie there that its apps fetch."""
        return self

    def configure(self, repo: str, settings: AppSettings) -> None:
        """Give the app in `repo`, which is there, its secrets and variables. Raises HubError.

        `push` does it for a repository that it makes, before the files are there.
        """

    def await_start(self, repo: str, *, changed: bool = True) -> None:
        """Start an app that the hub runs, where that is not done by itself, and wait until it is running.

        `changed`: files or settings of it were. Raises HubError with the end of its log when it does not run.
        """

    def make_public(self, repo: str) -> Sequence[str]:
        """Let everyone see `repo`; the steps that are left to do by hand. Raises HubError."""
        return ()

    def by_hand(self, repo: str, kind: str) -> Sequence[str]:
        """What must be clicked on the web page before the files can be sent, each step with the values to type."""
        return ()

    def afterwards(self, repo: str, bundle: Bundle) -> Sequence[str]:
        """What must be clicked on the web page once the files are there, each step with the values to type."""
        return ()


@dataclass(frozen=True)
class Identity:
    """Who a token speaks for. `scopes` as the hub calls them, `writes` whether it may publish; None: not told."""

    user: str | None
    scopes: tuple[str, ...] | None = None
    writes: bool | None = None


@dataclass(frozen=True)
class RemoteFile:
    """A file as a hub lists it. Where it does not tell the `sha256` of the content, it tells git's id of it."""

    size: int
    sha256: str | None
    git_id: str | None = None

    def same_as(self, other: RemoteFile) -> bool:
        """Whether both are known to have the same content."""
        if self.size != other.size:
            return False
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        return self.git_id is not None and self.git_id == other.git_id


@dataclass(frozen=True)
class Remote:
    """A repository as it is on the hub. `private` is None where the hub does not tell."""

    revision: str | None
    files: Mapping[str, RemoteFile]
    private: bool | None = None


@dataclass(frozen=True)
class AppSettings:
    """What an app finds in its environment on a hub, values by name. `secrets` are never shown, logged or written."""

    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    variables: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.secrets or self.variables)


@dataclass(frozen=True)
class Bundle:
    """The files to be sent: they are all that `folder` holds. `removed` are those to be taken off the remote.

    `settings` are what an app finds in its environment there.
    """

    folder: Path
    files: Mapping[str, RemoteFile]
    kind: str
    message: str
    removed: Sequence[str] = ()
    settings: AppSettings = field(default_factory=AppSettings)
