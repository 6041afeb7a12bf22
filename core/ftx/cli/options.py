"""Flags that train and plan share: each is a short name for a dotted recipe option."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from ftx.contracts import Part, Publisher
from ftx.errors import RecipeError, did_you_mean
from ftx.plugins import Registry
from ftx.recipe import Written, parse_value, written

F = TypeVar("F", bound=Callable[..., Any])
P = TypeVar("P", bound=Part)

# flag -> (dotted option, help); values are read as YAML, like --set
FLAGS = {
    "model": ("model", "Folder of the base model."),
    "method": ("method", "Training method: lora, qlora, full or a plugin's."),
    "template": ("template", "Prompt template; default: the tokenizer's own."),
    "out": ("out", "Folder of the run."),
    "epochs": ("train.epochs", "Passes over the data."),
    "max-steps": ("train.max_steps", "Optimizer steps, instead of epochs."),
    "lr": ("train.lr", "Peak learning rate."),
    "global-batch-size": ("train.global_batch_size", "Rows per optimizer step."),
    "micro-batch-size": ("train.micro_batch_size", "Rows computed at once."),
    "max-length": ("data.max_length", "Longest sample in tokens."),
    "overlong": ("data.overlong", "What becomes of longer rows: truncate, split, reject or cut."),
    "packing": ("data.packing", "none, best_fit (samples that do not see each other) or xtuner."),
    "seed": ("train.seed", "Seed of everything random."),
}
TEXT = ("model", "method", "template", "out")


class FiniteRange(click.FloatRange):
    """A number in a range; nan, which no range leaves out, and infinity are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number.", param, ctx)
        return number


def recipe_options(command: F) -> F:
    """Add RECIPE, the common flags and --set."""
    for flag, (_, help) in reversed(FLAGS.items()):
        command = click.option(f"--{flag}", help=help, metavar="VALUE")(command)
    command = click.option("--set", "settings", multiple=True, metavar="A.B=C", help="Any recipe option.")(command)
    command = click.option("--data", multiple=True, metavar="FILE", help="Training data; may be repeated.")(command)
    command = click.option("--format", "row_format", metavar="NAME", help="Row format of --data; default: found.")(
        command
    )
    command = click.option("--system", metavar="TEXT", help="System message for rows of --data without one.")(command)
    command = click.option(
        "--columns", metavar="input=q,output=a", help="Which columns of --data hold what the format expects."
    )(command)
    command = click.option("--plugin", "--family", "family", metavar="NAME", help="Model family.")(command)
    command = click.argument("recipe", required=False, type=click.Path(path_type=Path))(command)
    return click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")(command)


def family_options(command: F) -> F:
    """Add --plugin and --set for a family and its options, where no recipe says them."""
    command = click.option(
        "--set", "settings", multiple=True, metavar="family.A=B", help="An option of the family, as in a recipe."
    )(command)
    return click.option("--plugin", "--family", "family", metavar="NAME", help="Model family; default: found.")(command)


def given_family(family: str | None, settings: tuple[str, ...]) -> dict[str, Any]:
    """What --plugin and --set say of the family, its name and options; empty without them. Raises RecipeError."""
    given: dict[str, Any] = {"name": family} if family else {}
    for setting in settings:
        dotted, equals, value = setting.partition("=")
        if not equals or not dotted.startswith("family."):
            raise RecipeError(f"--set {setting}: write it as family.a=value")
        given[dotted.removeprefix("family.")] = parse_value(value)
    return given


def part_options(part: type[P], settings: tuple[str, ...]) -> P:
    """The part with the options that --set names. Raises RecipeError, one sentence for each wrong one."""
    given: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise RecipeError(f"--set {setting}: write it as option=value")
        given[name] = parse_value(value)
    try:
        return part.model_validate(given)
    except ValidationError as error:
        raise RecipeError(*(_wrong(part, problem) for problem in error.errors())) from None


def hub_part(registry: Registry, hub: str, settings: tuple[str, ...]) -> Publisher:
    """The publisher of that name, or the git host at that address, with its options. Raises RecipeError."""
    if hub.startswith(("https://", "http://")):
        settings, hub = (f"host={hub}", *settings), "git"
    part = registry.publisher(hub)
    if not part.variable:
        raise RecipeError(f"{hub} needs no token")
    return part_options(part, settings)


def _wrong(part: type[Part], problem: Any) -> str:
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"--set {name}: {part.name} has no such option; {did_you_mean(name, part.model_fields)}"
    if problem["type"] == "missing":
        return f"{part.name} needs --set {name}=...: {part.model_fields[name].description}"
    return f"--set{name and ' ' + name}: {problem['msg'].removeprefix('Value error, ')}"


def columns_option(text: str | None) -> dict[str, str] | None:
    """The mapping that --columns writes. Raises RecipeError."""
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and own.strip() for name, _, own in pairs):
        raise RecipeError(f"--columns {text}: write it as input=q,output=a")
    return {name.strip(): own.strip() for name, _, own in pairs}


def written_recipe(recipe: Path | None, family: str | None, data: tuple[str, ...], given: dict[str, Any]) -> Written:
    """What the user wrote in the file and on the command line. Raises RecipeError."""
    settings: dict[str, tuple[Any, str]] = {}
    if family:
        settings["family.name"] = (family, "--plugin")
    columns = columns_option(given["columns"])
    for_data = {"format": given["row_format"], "system": given["system"], "columns": columns}
    for_data = {key: value for key, value in for_data.items() if value is not None}
    if data:
        settings["data.sets"] = ([{"path": path, **for_data} for path in data], "--data")
    elif for_data:
        raise RecipeError(f"--{next(iter(for_data))} goes with --data FILE; in a recipe it stands in data.sets")
    for flag, (dotted, _) in FLAGS.items():
        value = given[flag.replace("-", "_")]
        if value is not None:
            dotted = "method.name" if dotted == "method" else dotted
            settings[dotted] = (value if flag in TEXT else parse_value(value), f"--{flag}")
    for setting in given["settings"]:
        dotted, equals, value = setting.partition("=")
        if not equals or not dotted:
            raise RecipeError(f"--set {setting}: write it as a.b=value")
        settings[dotted] = (parse_value(value), "--set")
    return written(recipe, settings)
