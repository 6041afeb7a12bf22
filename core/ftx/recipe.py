"""What the user wrote: YAML and flags, typed, unknown keys refused, each value knowing where it came from."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ftx.errors import FtxError, RecipeError, did_you_mean


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)


class SetRecipe(_Section):
    """One data set: a `path`, or a `source` part with its options."""

    path: str | None = Field(
        None,
        description="a file, folder or pattern, - for standard input, or a hub's repository as hub:owner/name@revision",
    )
    source: dict[str, Any] | None = Field(None, description="a source by name, with its options")
    format: str = Field("auto", description="a format by name; auto finds it from the first rows")
    system: str | None = Field(None, description="system message for the rows that have none")
    system_template: str | None = Field(None, description="the same by the name of one of XTuner's system texts")
    columns: dict[str, str] | None = Field(
        None, description="the format's names to the file's own, as {input: q, output: a}; other columns are left out"
    )
    image_folder: str | None = Field(None, description="where image paths start; default: the data file's folder")
    limit: int | None = Field(None, ge=1, description="samples used at most, drawn at random")
    repeat: float = Field(1.0, gt=0, description="times an epoch holds each sample; a fraction is drawn at random")
    weight: float | None = Field(None, gt=0, description="the set's part of an epoch, against the other sets' weights")

    @model_validator(mode="after")
    def _one_origin(self) -> SetRecipe:
        if (self.path is None) == (self.source is None):
            raise ValueError("give either path or source")
        if self.system is not None and self.system_template is not None:
            raise ValueError("give either system or system_template")
        if self.source is not None and not isinstance(self.source.get("name"), str):
            raise ValueError("source needs the name of a source")
        return self

    def source_options(self) -> dict[str, Any]:
        """The source's name and options."""
        if self.source is not None:
            return self.source
        return source_of(str(self.path))


HUB_PATH = re.compile(r"([a-z][a-z0-9_]+):([^/@:][^@:]*)(?:@([^@]+))?")


def source_of(path: str) -> dict[str, Any]:
    """Name and options of the source that a path stands for."""
    hub = HUB_PATH.fullmatch(path)
    if hub and not Path(path).exists():
        return {"name": hub[1], "repo": hub[2], **({"revision": hub[3]} if hub[3] else {})}
    return {"name": "files", "path": path}


class DataRecipe(_Section):
    """What is trained on."""

    sets: list[SetRecipe] = Field(min_length=1, description="the data sets, read in order")
    max_length: int = Field(2048, ge=2, description="longest sample in tokens")
    overlong: Literal["truncate", "split", "reject", "cut"] = Field(
        "truncate",
        description="longer rows: drop their last turns, split them at turns, reject them, or cut them anywhere",
    )
    packing: Literal["none", "best_fit", "xtuner"] = Field(
        "none",
        description="rows of one sample each; of whole samples up to max_length that do not see each other; or all "
        "samples strung together and cut, as XTuner does",
    )
    group_by_length: bool = Field(
        False, description="rows of like length, and pictures apart from text, share a batch: less padding"
    )
    streaming: bool = Field(False, description="read rows while training and keep none on disk; needs train.max_steps")
    workers: int | None = Field(
        None,
        ge=0,
        description="threads that make batches ahead of the step; default: 8 at most for pictures, one on a GPU, "
        "else none",
    )
    typed_specials: bool = Field(
        False, description="let special tokens written in messages count as such; only for data you trust"
    )
    max_rejected: int = Field(0, ge=0, description="rows that may be unusable before the run is refused")

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        value = {"sets": value} if isinstance(value, str | list) else value
        if isinstance(value, dict) and "sets" in value:
            sets = value["sets"] if isinstance(value["sets"], list) else [value["sets"]]
            value = {**value, "sets": [{"path": s} if isinstance(s, str) else s for s in sets]}
        return value


MemoryWay = Literal["auto", "fast", "balanced", "small"]


class TrainRecipe(_Section):
    """How the weights are moved."""

    epochs: float = Field(3.0, gt=0, description="passes over the data; max_steps overrides it")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps")
    global_batch_size: int = Field(16, ge=1, description="rows per optimizer step, over all processes")
    micro_batch_size: int | None = Field(
        None, ge=1, description="rows a process computes at once, changing no result; default: 4 at most"
    )
    lr: float | None = Field(None, gt=0, description="peak learning rate; default: the method's own")
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of the steps with rising rate")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled decay")
    betas: tuple[float, float] = Field((0.9, 0.999), strict=False, description="AdamW's momentum terms")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this global norm")
    seed: int = Field(42, ge=0, lt=1 << 32, description="order of rows, adapter initialisation, dropout")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="arithmetic; auto: bfloat16 on a GPU, float32 on a CPU"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention: Literal["auto", "sdpa", "eager"] = Field(
        "auto",
        description="auto: samples end to end, without padding or masks, where the model allows and a CPU is not the "
        "faster with padding; else sdpa",
    )
    adapters: Literal["auto", "folded", "split", "plain"] = Field(
        "auto",
        description="how adapters are computed: folded into the weight, apart from it, or as peft does; auto: "
        "whichever of the first two moves fewer bytes, or plain where a CPU is the faster so",
    )
    base: Literal["auto", "fp8"] = Field(
        "auto",
        description="products with frozen weights, in train.dtype or in 8-bit floating point: faster on Hopper and "
        "Ada, with a coarser rounding",
    )
    memory: MemoryWay | float = Field(
        "auto",
        union_mode="left_to_right",
        description="fast: keep all activations; balanced: make them again, their inputs in host memory; small: also "
        "8-bit optimizer states, and the embedding in host memory; a number: GiB that a step may take; auto: the "
        "fastest of the first two that the GPU holds",
    )
    save_every: int | None = Field(None, ge=1, description="steps between checkpoints; default: 10 in a run")
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints kept")
    stall_seconds: int = Field(1800, ge=1, description="how long processes wait for each other before they end with 8")

    @field_validator("memory", mode="before")
    @classmethod
    def _way_or_gib(cls, value: Any) -> Any:
        if value in get_args(MemoryWay):
            return value
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value <= sys.float_info.max:
            raise ValueError("is fast, balanced, small, auto, or a number of GiB above 0")
        return float(value)

    @field_validator("betas")
    @classmethod
    def _below_one(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("each must be at least 0 and below 1")
        return value

    @field_validator("micro_batch_size")
    @classmethod
    def _within_the_batch(cls, value: int | None, info: ValidationInfo) -> int | None:
        whole = info.data.get("global_batch_size")
        if value is not None and whole is not None and value > whole:
            raise ValueError(f"{value} exceeds global_batch_size {whole}")
        return value


class EvalRecipe(_Section):
    """What is asked while training: before its first step, every so many steps, and after its last."""

    questions: list[str] = Field(min_length=1, description="asked each in a conversation of its own, greedily")
    images: list[str] = Field([], description="picture files: one for all questions, or one for each")
    every: int | None = Field(None, ge=1, description="steps between; default: those between checkpoints")
    system: str | None = Field(None, description="system message")
    max_new_tokens: int = Field(128, ge=1, description="tokens an answer at most")

    @field_validator("questions", "images", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("images")
    @classmethod
    def _for_each(cls, value: list[str], info: ValidationInfo) -> list[str]:
        asked = info.data.get("questions", value)
        if len(value) not in (0, 1, len(asked)):
            raise ValueError(f"{len(value)} pictures for {len(asked)} questions; give one, or one for each")
        return value

    def image_of(self, number: int) -> str | None:
        """The picture that question `number`, from 0, is asked about."""
        return self.images[number if len(self.images) > 1 else 0] if self.images else None


class Recipe(_Section):
    """A whole run. `family` and `method` are names or {name: ..., options}."""

    family: dict[str, Any] = Field(
        {"name": "auto"}, description="model family, by name or with options; auto asks config.json"
    )
    model: str = Field(description="the base model's folder, or a hub's repository as huggingface:owner/name@revision")
    method: dict[str, Any] = Field({"name": "lora"}, description="training method, by name or with options")
    template: str = Field("auto", description="prompt template; auto: the tokenizer's own, else the family's")
    data: DataRecipe
    train: TrainRecipe = TrainRecipe()
    eval: EvalRecipe | None = Field(None, description="questions asked while training, whose answers are kept")
    out: str | None = Field(None, description="the run's folder; default: runs/<data>-<method>")

    @field_validator("family", "method", mode="before")
    @classmethod
    def _by_name(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict):
            return {**cls.model_fields[str(info.field_name)].default, **value}
        return {"name": value} if isinstance(value, str) else value

    @field_validator("family", "method")
    @classmethod
    def _named(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if not isinstance(value.get("name"), str):
            raise ValueError(f"needs the name of a {info.field_name}")
        return value


def streaming_problems(recipe: Recipe) -> list[str]:
    """One sentence per option that an endless stream of rows cannot heed."""
    if not recipe.data.streaming:
        return []
    problems = [] if recipe.train.max_steps else ["data.streaming: a stream has no epochs; set train.max_steps"]
    if recipe.data.packing == "xtuner":
        problems.append("data.packing: XTuner's way shuffles the whole set, which data.streaming does not hold")
    if any(one.limit or one.repeat != 1 for one in recipe.data.sets):
        problems.append("data.sets: limit and repeat need the whole set; data.streaming takes weight alone")
    return problems


def grouping_problems(recipe: Recipe) -> list[str]:
    """One sentence per option that leaves nothing to group by length."""
    if not recipe.data.group_by_length:
        return []
    problems = []
    if recipe.data.packing != "none":
        problems.append(f"data.group_by_length: goes with data.packing none alone, not with {recipe.data.packing}")
    if recipe.data.streaming:
        problems.append("data.group_by_length: needs the whole set's lengths, which data.streaming does not hold")
    return problems


# section -> the key that a bare value means: `method: lora`, `data: rows.jsonl`
SHORT = {"family": "name", "method": "name", "source": "name", "data": "sets", "eval": "questions"}


@dataclass
class Written:
    """Values as the user wrote them, with the place each came from ("recipe.yaml", "--lr", ...)."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def put(self, dotted: str, value: Any, origin: str) -> None:
        """Set one value by its dotted name; a later put wins. Raises RecipeError when the path is blocked."""
        *parents, last = dotted.split(".")
        place = self.values
        for key in parents:
            inner = place.get(key)
            if key in SHORT and isinstance(inner, str | list):
                inner = {SHORT[key]: inner}
            if inner is not None and not isinstance(inner, dict):
                raise RecipeError(f"{origin}: '{dotted}' cannot be set: {key} is {inner!r}")
            place[key] = place = {} if inner is None else inner
        place[last] = value
        self.origins[dotted] = origin

    def put_all(self, values: Mapping[str, Any], origin: str, prefix: str = "") -> None:
        """Set every leaf of a nested mapping."""
        for key, value in values.items():
            if isinstance(value, Mapping) and value:
                self.put_all(value, origin, f"{prefix}{key}.")
            else:
                self.put(f"{prefix}{key}", value, origin)

    def recipe(self) -> Recipe:
        """The validated recipe. Raises RecipeError with one sentence per problem."""
        try:
            return Recipe.model_validate(self.values)
        except ValidationError as error:
            raise RecipeError(*(sentence(e, Recipe, self.origins) for e in error.errors())) from None

    def origin_of(self, dotted: str) -> str:
        return self.origins.get(dotted, "default")


def sentence(error: Any, model: type[BaseModel], origins: Mapping[str, str]) -> str:
    """One pydantic error as a sentence that names the dotted option, its origin and the bad value."""
    dotted = ".".join(str(part) for part in error["loc"])
    origin = origins.get(dotted)
    where = f"{dotted} ({origin})" if origin else dotted or "recipe"
    if error["type"] == "extra_forbidden":
        known = fields_at(model, error["loc"][:-1])
        return f"{where}: unknown key; {did_you_mean(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        dotted = where = dotted.removesuffix(".sets")
        flag = {"model": " (--model FOLDER)", "data": " (--data FILE)"}.get(dotted, "")
        return f"{where}: is required{flag}"
    message = str(error["msg"]).removeprefix("Value error, ")
    given = error["input"]
    value = f" (given: {given!r})" if not isinstance(given, dict | BaseModel) else ""
    return f"{where}: {message[:1].lower()}{message[1:]}{value}"


def fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the section at `path`."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


class _Loader(yaml.SafeLoader):
    """YAML in which 2e-4 is a number, as people write learning rates, nothing holds itself, and no key stands twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        if node is not None and node.end_mark is None:  # an alias within what it stands for
            raise yaml.composer.ComposerError(None, None, "a value holds itself", node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        met: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in met:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands twice", key.start_mark)
            met.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _load(text: str) -> Any:
    """The value in a YAML text. Raises yaml.YAMLError."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506  (_Loader is a SafeLoader)
    except (ValueError, RecursionError) as error:  # a date in no month, endless digits, lists in lists
        raise yaml.YAMLError(str(error)) from None


def parse_value(text: str) -> Any:
    """A value from the command line, read as YAML. Raises RecipeError."""
    try:
        return _load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"'{text}' is no YAML value: {str(error).splitlines()[0]}") from None


def read_recipe(path: Path) -> dict[str, Any]:
    """The mapping in a recipe file. Raises RecipeError."""
    try:
        value = _load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"recipe {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe {path} is broken YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise RecipeError(f"recipe {path} holds no mapping")
    return value


def written(file: Path | None, settings: Mapping[str, tuple[Any, str]]) -> Written:
    """A recipe file with settings on top, each `dotted name -> (value, origin)`.

    Raises RecipeError with all problems of both.
    """
    problems: list[str] = []
    result = Written()
    if file is not None:
        result.put_all(read_recipe(file), str(file))
    for dotted, (value, origin) in settings.items():
        try:
            result.put(dotted, value, origin)
        except FtxError as error:
            problems += error.problems
    if problems:
        raise RecipeError(*problems)
    return result
