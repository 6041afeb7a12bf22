"""A plan: every name resolved to a configured part, every check passed, sizes known, no device touched."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from ftx.checkpoint_files import read_json
from ftx.contracts import DataSource, ImageProcessor, ModelFacts, ModelFamily, Part, TrainMethod
from ftx.data.choose import check_template_name, choose_template
from ftx.data.feed import Feed, Samples, make_feed
from ftx.data.jinja import JinjaTemplate
from ftx.data.ledger import Ledger
from ftx.data.load import Prepared, prepare, refuse_rejects
from ftx.data.mix import Share, epoch_samples
from ftx.data.named import system_text
from ftx.data.samples import Preparation
from ftx.data.sets import DataSet, open_set
from ftx.data.stream import Streamed
from ftx.data.template import Template
from ftx.data.tokens import Tokenizer
from ftx.errors import FtxError, HubError, ModelError, RecipeError
from ftx.recipe import HUB_PATH, Recipe, SetRecipe, Written, grouping_problems, sentence, streaming_problems
from ftx.train.ask import asking_problems
from ftx.train.memory import Decoder, chosen, decoder_of, outlook
from ftx.train.path import path_notes, path_problems

if TYPE_CHECKING:
    from ftx.plugins import Registry

T = TypeVar("T")
CHECKPOINTS_A_RUN = 10
ROWS_AT_ONCE = 4


@dataclass
class Plan:
    """All that `fit` needs. `as_dict` is what is printed, stored and sealed into the artefact."""

    recipe: Recipe
    origins: dict[str, str]
    registry: Registry
    family: ModelFamily
    method: TrainMethod
    facts: ModelFacts
    tokenizer: Tokenizer
    template: Template
    sets: list[DataSet]
    prepared: Prepared
    feed: Feed
    out: Path
    base: Path
    stop_ids: list[int]
    images: ImageProcessor | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def decoder(self) -> Decoder | None:
        """The model's sizes, where memory can be told by them."""
        return decoder_of(self)

    @property
    def ledger(self) -> Ledger:
        """The account of all rows; of a stream, of those read so far."""
        return self.feed.ledger if isinstance(self.feed, Streamed) else self.prepared.ledger

    @property
    def hashes(self) -> list[str]:
        """sha256 of each set's content."""
        return self.prepared.hashes

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch, 0 in an endless stream."""
        if self.feed.endless:
            return 0
        return math.ceil(len(self.feed) / self.recipe.train.global_batch_size)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        train = self.recipe.train
        return train.max_steps or max(1, math.ceil(self.steps_per_epoch * train.epochs))

    @property
    def warmup_steps(self) -> int:
        """Steps with rising learning rate: at least one when warm-up is asked for, never the whole run."""
        ratio = self.recipe.train.warmup_ratio
        return min(max(1, round(ratio * self.steps)), self.steps - 1) if ratio else 0

    @property
    def micro_batch_size(self) -> int:
        """Rows a process computes at once."""
        train = self.recipe.train
        return train.micro_batch_size or min(ROWS_AT_ONCE, train.global_batch_size)

    @property
    def lr(self) -> float:
        return self.recipe.train.lr or self.method.default_lr

    @property
    def save_every(self) -> int:
        return self.recipe.train.save_every or max(1, self.steps // CHECKPOINTS_A_RUN)

    @property
    def ask_every(self) -> int:
        """Steps between the questions that are asked while training."""
        return (self.recipe.eval.every if self.recipe.eval else None) or self.save_every

    @property
    def stop_id(self) -> int:
        """The id that ends every learnt answer."""
        found = self.template.stop_id(self.tokenizer)
        if found is None:
            raise RecipeError(*self.template.check(self.tokenizer))
        return found

    def origin_of(self, dotted: str) -> str:
        """Where a value of `as_dict` comes from: the flag or file that set it or what it is made of, or a default."""
        names = [dotted, dotted.removesuffix(".path"), *(dotted[:i] for i, c in enumerate(dotted) if c == ".")]
        found = [self.origins[name] for name in names if name in self.origins]
        if found:
            return found[0]
        return "default" if _is_option(dotted) else "computed"

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            "family": _part(self.family),
            "method": {**_part(self.method), "produces": self.method.produces},
            "model": {"path": str(self.base), **{k: v for k, v in vars(self.facts).items() if k != "notes"}},
            "template": {
                "name": self.template.name,
                "stop": self.tokenizer.decode([self.stop_id]),
                "stop_ids": self.stop_ids,
                "proven_answers": self.ledger.answers,
            },
            "data": {
                "sets": [self._set(i) for i in range(len(self.sets))],
                "max_length": self.recipe.data.max_length,
                "overlong": self.recipe.data.overlong,
                "typed_specials": self.recipe.data.typed_specials,
                "rows": self.ledger.as_dict(),
                "streaming": self.recipe.data.streaming,
                "packing": {"name": self.recipe.data.packing, **self._epoch()},
                "group_by_length": self.recipe.data.group_by_length,
            },
            "train": {
                **self.recipe.train.model_dump(mode="json"),
                "lr": self.lr,
                "micro_batch_size": self.micro_batch_size,
                "steps": self.steps,
                "steps_per_epoch": self.steps_per_epoch,
                "warmup_steps": self.warmup_steps,
                "save_every": self.save_every,
            },
            **({"eval": {**one.model_dump(mode="json"), "every": self.ask_every}} if (one := self.recipe.eval) else {}),
            "expected_gpu_gib": outlook(self),
            "out": str(self.out),
            "writes": ["plan.json", "events.jsonl", "checkpoints/", f"{self.method.produces}/"],
            "origins": self.origins,
            "notes": self.notes,
        }

    def _epoch(self) -> dict[str, Any]:
        return {} if self.feed.endless else {"rows": len(self.feed), "fill": round(self.feed.fill, 4)}

    def _set(self, index: int) -> dict[str, Any]:
        one = self.sets[index]
        ledgers = self.prepared.ledgers
        return {
            "source": _part(one.source),
            "format": one.format.name,
            "evidence": one.evidence,
            "system": one.system,
            "columns": one.columns,
            "sha256": self.prepared.hashes[index],
            # of the samples with their pictures, which the rows only name
            **({"samples_sha256": self.prepared.digests[index]} if ledgers else {}),
            **({"commit": commit} if (commit := one.source.resolved()) else {}),
            **({"rows": ledgers[index].as_dict()} if ledgers else {}),
        }


def _is_option(dotted: str) -> bool:
    """Whether a recipe can set `dotted`."""
    first, _, rest = dotted.partition(".")
    if first in ("data", "train"):
        section = Recipe.model_fields[first].annotation
        return rest.partition(".")[0] in getattr(section, "model_fields", {})
    return first in Recipe.model_fields


def _part(part: Part) -> dict[str, Any]:
    return {"name": part.name, **part.model_dump(mode="json")}


class _Problems:
    """Collects every mistake that can be found, so that the user hears of all at once."""

    def __init__(self) -> None:
        self.errors: list[FtxError] = []

    def of(self, what: Callable[[], T]) -> T | None:
        try:
            return what()
        except FtxError as error:
            self.errors.append(error)
            return None

    def add(self, sentences: Iterable[str]) -> None:
        self.errors += [RecipeError(one) for one in sentences]

    def error(self) -> FtxError:
        """One error of the first cause with all sentences."""
        sentences = [one for error in self.errors for one in error.problems]
        return type(self.errors[0])(*dict.fromkeys(sentences))


def make_plan(written: Written, registry: Registry) -> Plan:
    """Resolve and check a recipe. Raises a FtxError of the first cause that holds every sentence found."""
    problems = _Problems()
    written = _with_family_defaults(written, registry)
    recipe = problems.of(written.recipe)
    if recipe is None:
        _check_names(written.values, registry, problems)
        raise problems.error()
    base = problems.of(lambda: model_folder(recipe.model, registry)) or Path(recipe.model)
    family = problems.of(lambda: find_family(recipe.family, base, registry)) if not problems.errors else None
    method = problems.of(lambda: configured(registry.method(recipe.method["name"]), recipe.method, "method"))
    if method:
        problems.add(method.requirements())
        problems.add(path_problems(recipe, method))
    problems.add(_device_missing(recipe))
    problems.add(streaming_problems(recipe))
    problems.add(grouping_problems(recipe))
    sets = [problems.of(lambda s=s: _open(s, registry)) for s in recipe.data.sets]  # type: ignore[misc]
    facts = problems.of(lambda: family.inspect(base)) if family else None
    tokenizer = problems.of(lambda: family.tokenizer(base)) if family and facts else None
    images = problems.of(lambda: family.image_processor(base)) if family and facts else None
    problems.add(asking_problems(recipe.eval, images) if facts else ())
    if tokenizer and facts and tokenizer.largest_id >= facts.vocab_size:
        problems.add(
            [f"the tokenizer of {base} has ids up to {tokenizer.largest_id}, the model {facts.vocab_size} words"]
        )
    eos = (problems.of(lambda: generation_eos(base)) if facts else None) or set()
    template = problems.of(lambda: _template(recipe.template, tokenizer, family, base))
    if problems.errors or not (family and method and facts and tokenizer and template):
        raise problems.error()
    ready = [one for one in sets if one]
    stop_ids = sorted(set(template.stop_ids(tokenizer)) | eos)
    how = Preparation(
        template,
        tokenizer,
        recipe.data.max_length,
        recipe.data.overlong,
        recipe.data.typed_specials,
        images,
    )
    prepared, feed = _fed(recipe, ready, how, registry)
    plan = Plan(
        recipe=recipe,
        origins=written.origins,
        registry=registry,
        family=family,
        method=method,
        facts=facts,
        tokenizer=tokenizer,
        template=template,
        sets=ready,
        prepared=prepared,
        feed=feed,
        out=Path(recipe.out or f"runs/{_stem(recipe)}-{method.name}"),
        base=base,
        stop_ids=stop_ids,
        images=images,
        notes=[*facts.notes, *_template_note(recipe.template, tokenizer), *path_notes(recipe, method)],
    )
    if refused := registry.check_plan(plan):
        raise RecipeError(*refused)
    if not isinstance(recipe.train.memory, str):
        chosen(plan, None)  # refuses what cannot be kept to
    return plan


def _template(name: str, tokenizer: Tokenizer | None, family: ModelFamily | None, base: Path) -> Template | None:
    """The template, proven to fit the tokenizer; without a tokenizer only its name can be checked."""
    if tokenizer is None or family is None:
        check_template_name(name)
        return None
    template = family_template(name, tokenizer, family, base)
    if unfit := template.check(tokenizer):
        raise RecipeError(*unfit)
    return template


def _template_note(name: str, tokenizer: Tokenizer) -> list[str]:
    if name in ("auto", "tokenizer") or not tokenizer.chat_template:
        return []
    return [f"template '{name}' takes the place of the tokenizer's own; it travels with the result and is used in chat"]


def _device_missing(recipe: Recipe) -> list[str]:
    if recipe.train.device != "cuda":
        return []
    import torch

    return [] if torch.cuda.is_available() else ["train.device: 'cuda' is asked for, but torch finds no GPU here"]


def family_template(name: str, tokenizer: Tokenizer, family: ModelFamily, folder: Path) -> Template:
    """The template called `name`; "auto" means that of the family's official code, the tokenizer's own, or a fallback.

    Raises RecipeError.
    """
    own = family.own_template(folder) if name == "auto" else None
    return own or choose_template(name, tokenizer, family.default_template())


def chosen_template(folder: Path, name: str, tokenizer: Tokenizer, family: ModelFamily, base: Path) -> Template:
    """The template that travelled with what lies in `folder`, or the one called `name`. Raises RecipeError."""
    travelled = folder / "chat_template.jinja"
    if name == "auto" and travelled.is_file():
        return JinjaTemplate(travelled.read_text("utf-8"), tokenizer)
    return family_template(name, tokenizer, family, base)


def _with_family_defaults(written: Written, registry: Registry) -> Written:
    """The user's values over those that the family, where it is known, prefers to ftx's own."""
    values = written.values
    named = values.get("family", "auto")
    try:
        options = named if isinstance(named, dict) else {"name": named}
        known = options.get("name", "auto") != "auto"
        base = Path() if known else model_folder(str(values.get("model", "")), registry)
        family = find_family({"name": "auto", **options}, base, registry)
    except FtxError:
        return written  # the checks that follow say what is wrong
    return _with_defaults(written, family, registry)


def _with_defaults(written: Written, family: ModelFamily, registry: Registry) -> Written:
    """The user's values over the family's own, of which another method keeps the options that it has too."""
    defaults = family.defaults()
    if not defaults:
        return written
    merged = Written()
    merged.put_all(_for_method(defaults, written.values.get("method"), registry), f"family {family.name}")
    for dotted, origin in written.origins.items():
        value: Any = written.values
        for key in dotted.split("."):
            value = value[key]
        merged.put(dotted, value, origin)
    return merged


def _for_method(defaults: Mapping[str, Any], method: Any, registry: Registry) -> Mapping[str, Any]:
    chosen = method.get("name") if isinstance(method, dict) else method
    preferred = defaults.get("method", {})
    if not isinstance(chosen, str) or chosen == preferred.get("name") or chosen not in registry.parts["method"]:
        return defaults
    options = {key: value for key, value in preferred.items() if key in registry.method(chosen).model_fields}
    train = dict(defaults.get("train", {}))
    if options.keys() < preferred.keys() - {"name"}:  # a rate is right for a method and those of its kind alone
        train.pop("lr", None)
    return {**defaults, "method": options, "train": train}


def _check_names(values: dict[str, Any], registry: Registry, problems: _Problems) -> None:
    """Names and the options of parts can be checked even where the rest of the recipe is broken."""
    family = values.get("family")
    family = {"name": family} if isinstance(family, str) else family
    if isinstance(family, dict) and isinstance(known := family.get("name"), str) and known != "auto":
        problems.of(lambda: configured(registry.family(known), family, "family"))
    method = values.get("method")
    method = {"name": method} if isinstance(method, str) else method
    if isinstance(method, dict) and isinstance(name := method.get("name"), str):
        problems.of(lambda: configured(registry.method(name), method, "method"))
    if isinstance(template := values.get("template"), str):
        problems.of(lambda: check_template_name(template))
    data = values.get("data")
    sets = data.get("sets") if isinstance(data, dict) else None
    for one in sets if isinstance(sets, list) else []:
        if isinstance(one, dict):
            _check_set_names(one, registry, problems)


def _check_set_names(one: dict[str, Any], registry: Registry, problems: _Problems) -> None:
    if isinstance(row_format := one.get("format"), str) and row_format != "auto":
        problems.of(lambda: registry.format(row_format))
    source = one.get("source")
    if isinstance(source, dict) and isinstance(name := source.get("name"), str):
        problems.of(lambda: configured(registry.source(name), source, "data.source"))


def find_family(options: Mapping[str, Any], base: Path, registry: Registry) -> ModelFamily:
    """The family by its name and options; for "auto" the one whose plugin claims the folder's config.json."""
    name = str(options["name"])
    if name == "auto":
        config = read_model_config(base)
        found = registry.detect_family(config)
        if found is None:
            known = ", ".join(registry.parts["family"])
            kind = config.get("model_type")
            raise ModelError(f"no plugin reads model_type '{kind}' of {base}; families: {known}")
        name = found
    return configured(registry.family(name), options, "family").for_folder(base)


def model_folder(name: str, registry: Registry) -> Path:
    """The folder that a recipe's `model` names; one of a hub is fetched. Raises FtxError."""
    hub = HUB_PATH.fullmatch(name)
    if hub is None or Path(name).exists():
        return Path(name)
    try:
        found = registry.model_folder(hub[1], hub[2], hub[3])
    except ValidationError as error:
        raise RecipeError(*(f"model: {e['loc'][0]} {e['msg']} (given: {name})" for e in error.errors())) from None
    except HubError as error:
        raise HubError(*error.problems, "a model that is on the disk already is named by its folder: --model") from None
    if found is None:
        raise RecipeError(
            f"model: '{hub[1]}' is no hub that ftx fetches models from (given: {name}); known: huggingface"
        )
    return found


def read_model_config(base: Path) -> dict[str, Any]:
    if not base.is_dir():
        raise ModelError(f"model folder {base} does not exist")
    return read_json(base / "config.json")


def generation_eos(base: Path) -> set[int]:
    """The stop ids in a model folder's generation_config.json."""
    path = base / "generation_config.json"
    eos = read_json(path).get("eos_token_id") if path.is_file() else None
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if not all(isinstance(i, int) for i in ids):
        raise ModelError(f"{path}: eos_token_id is {eos!r}, not a token id or a list of them")
    return set(ids)


PartT = TypeVar("PartT", bound=Part)


def configured(part: type[PartT], options: Mapping[str, Any], where: str) -> PartT:
    """A part built from its options. Raises RecipeError with one sentence per bad option."""
    given = {key: value for key, value in options.items() if key != "name"}
    try:
        return part(**given)
    except ValidationError as error:
        raise RecipeError(
            *(sentence({**e, "loc": (where, *e["loc"])}, _Wrapped.of(part, where), {}) for e in error.errors())
        ) from None


class _Wrapped:
    """Lets `sentence` find a part's fields under the name of its section."""

    @staticmethod
    def of(part: type[Part], where: str) -> Any:
        from pydantic import create_model

        return create_model("Wrapped", **{where: (part, ...)})  # type: ignore[call-overload]


def _open(entry: SetRecipe, registry: Registry) -> DataSet:
    options = entry.source_options()
    source: DataSource = configured(registry.source(options["name"]), options, "data.source")
    images = Path(entry.image_folder) if entry.image_folder else None
    system = system_text(entry.system_template) if entry.system_template else entry.system
    return open_set(source, entry.format, system, registry, entry.columns, images)


def _fed(recipe: Recipe, sets: list[DataSet], how: Preparation, registry: Registry) -> tuple[Prepared, Feed]:
    """The sets' samples, and the rows of training made of them; of a stream, the first rows prove that it flows."""
    data = recipe.data
    if data.streaming:
        weights = [one.weight or 1.0 for one in data.sets]
        stream = Streamed(sets, weights, how, data.packing, recipe.train.seed, data.max_rejected)
        stream.samples(0)
        return Prepared(hashes=[one.source.fingerprint() for one in sets]), stream
    prepared = prepare(sets, how, registry.versions())
    refuse_rejects(prepared.ledger, data.max_rejected)
    return prepared, _feed(recipe, prepared)


def _feed(recipe: Recipe, prepared: Prepared) -> Feed:
    shares = [Share(one.limit, one.repeat, one.weight) for one in recipe.data.sets]
    order = epoch_samples([len(store) for store in prepared.stores], shares, recipe.train.seed)
    if not len(order):
        raise RecipeError("data.sets: with these limits and repeats an epoch holds no sample")
    samples = Samples(prepared.stores, order)
    data = recipe.data
    return make_feed(samples, data.packing, data.max_length, recipe.train.seed, grouped=data.group_by_length)


def _stem(recipe: Recipe) -> str:
    first = recipe.data.sets[0]
    return Path(first.path).stem if first.path else str(first.source_options()["name"])


def plan_text(plan: Plan) -> str:
    """plan.json's content."""
    return json.dumps(plan.as_dict(), ensure_ascii=False, indent=1)


def schema(registry: Registry) -> dict[str, Any]:
    """JSON schema of recipes, with the options of every known method and source."""
    base = Recipe.model_json_schema()
    methods = [
        {"const": name, "description": (part.__doc__ or "").split("\n")[0]}
        for name, part in registry.parts["method"].items()
    ]
    options = [_named_schema(part) for part in registry.parts["method"].values()]
    base["properties"]["method"] = {"anyOf": [*methods, *options], "default": {"name": "lora"}}
    sources = [_named_schema(part) for part in registry.parts["source"].values()]
    base["$defs"]["SetRecipe"]["properties"]["source"] = {"anyOf": [*sources, {"type": "null"}], "default": None}
    families = [_named_schema(part) for part in registry.parts["family"].values()]
    base["properties"]["family"] = {
        "anyOf": [{"enum": ["auto", *registry.parts["family"]]}, *families],
        "default": {"name": "auto"},
    }
    base["$defs"]["SetRecipe"]["properties"]["format"]["enum"] = ["auto", *registry.parts["format"]]
    base["properties"]["data"] = {
        "anyOf": [{"$ref": "#/$defs/DataRecipe"}, {"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    }
    return base


def _named_schema(part: type[Part]) -> dict[str, Any]:
    described = part.model_json_schema()
    described["properties"] = {"name": {"const": part.name}, **described.get("properties", {})}
    described["required"] = ["name", *described.get("required", [])]
    return described
