"""What a pipeline takes from a recipe: data sets as commands, files whose change trains anew, tokens to read with."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from ftx.errors import RecipeError
from ftx.plan import configured
from ftx.recipe import Recipe, SetRecipe, source_of, written
from ftx.user_paths import refuse_bad_paths

if TYPE_CHECKING:
    from ftx.plugins import Registry

# What shells, YAML, Groovy and the pipelines' own expressions would each read in their own way.
UNSAFE = set("\"'`$\\")
# What pipelines take for a pattern, each in its own way; * is the same to all.
PATTERN = set("!+?[]{}")


@dataclass(frozen=True)
class Inputs:
    """`checks`: arguments of `ftx data check` for each set, quoted for a shell.

    `files`: paths and patterns, folders with a slash at the end; `tokens`: variables that hold what hubs ask for;
    `hubs`: all variables that publishers read; `local`: whether the base is a folder; `adapter`: whether an adapter is
    what is trained.
    """

    recipe: str
    checks: tuple[str, ...]
    files: tuple[str, ...]
    tokens: tuple[str, ...]
    hubs: tuple[str, ...]
    local: bool
    adapter: bool


@refuse_bad_paths()
def read_inputs(recipe: Path, root: Path, registry: Registry) -> Inputs:
    """What the recipe file names, as seen from `root`, the project's folder, where pipelines run.

    Raises RecipeError with all that is wrong.
    """
    if not recipe.is_file():
        raise RecipeError(f"--recipe: {recipe} does not exist; name the project's recipe, as --recipe cats.yaml")
    name = inside(recipe, root, "--recipe")
    read = written(recipe, {}).recipe()
    hubs = [source_of(read.model), *(one.source_options() for one in read.data.sets)]
    for source in hubs[1:]:
        configured(registry.source(source["name"]), source, "data.source")
    known = registry.parts["publisher"]
    tokens = [t for hub in hubs if hub["name"] in known for t in registry.publisher(hub["name"]).variables()]
    problems: list[str] = []
    files = [name, "ci/ftx.sh"]
    for option, path in _paths(read):
        if Path(path).is_absolute():
            continue
        if why := _unfit(path):
            problems.append(f"{path}: {why}")
        elif ".." in Path(path).parts or not _there(root, path):
            problems.append(
                f"{option}: {path} is not in {root}, where the pipeline runs; put it there, or name a hub's"
            )
        else:
            files.append(_watched(root, path))
    if problems:
        raise RecipeError(*problems)
    checks = (_check(one, read.data.max_rejected) for one in read.data.sets)
    return Inputs(
        name,
        tuple(words for words in checks if words),
        tuple(dict.fromkeys(files)),
        tuple(dict.fromkeys(tokens)),
        registry.hub_variables(),
        hubs[0]["name"] == "files",
        registry.method(read.method["name"]).produces == "adapter",
    )


@refuse_bad_paths()
def inside(path: Path, root: Path, option: str) -> str:
    """The file `path` as seen from `root`. Raises RecipeError when it is not there, or lies elsewhere."""
    if not path.is_file():
        raise RecipeError(f"{option}: there is no file {path}")
    if not path.resolve().is_relative_to(root.resolve()):
        raise RecipeError(f"{option}: {path} lies outside {root}, where the pipeline runs; move it there or give --out")
    name = path.resolve().relative_to(root.resolve()).as_posix()
    if why := _unfit(name):
        raise RecipeError(f"{option}: {name}: {why}")
    if wild := PATTERN.union("*") & set(name):
        raise RecipeError(f"{option}: {name}: pipelines take {min(wild)} for a pattern; give it another name")
    return name


def _paths(recipe: Recipe) -> list[tuple[str, str]]:
    """Dotted option and path of what the recipe reads from files."""
    found = [("model", source_of(recipe.model))]
    found += [(f"data.sets.{i}.path", one.source_options()) for i, one in enumerate(recipe.data.sets)]
    paths = [(option, str(source["path"])) for option, source in found if source["name"] == "files"]
    folders = [(f"data.sets.{i}.image_folder", one.image_folder) for i, one in enumerate(recipe.data.sets)]
    return paths + [(option, folder) for option, folder in folders if folder]


def _there(root: Path, path: str) -> bool:
    return (root / path).exists() or bool(glob.glob(path, root_dir=root, recursive=True))  # noqa: PTH207 (as ftx reads)


def _watched(root: Path, path: str) -> str:
    """What is watched for changes of `path`: itself, or the folder around what pipelines take for a pattern.

    A folder has a slash at its end.
    """
    parts = Path(path).parts
    plain = list(takewhile(lambda part: not PATTERN & set(part), parts))
    if len(plain) == len(parts) and not (root / path).is_dir():
        return path
    return f"{'/'.join(plain) or '.'}/"


def _unfit(path: str) -> str | None:
    if path.startswith("-") or set(path) & UNSAFE or not path.isprintable():
        return "no pipeline can be trusted with such a name; leave out quotes, $, ` and \\, and a - at its beginning"
    return None


def _check(one: SetRecipe, max_rejected: int) -> str | None:
    """Arguments of `ftx data check` for the set; None for a source or columns that the command line cannot name."""
    source = one.source_options()
    if source["name"] == "files" and set(source) == {"name", "path"}:
        name = str(source["path"])
    elif "repo" in source and set(source) <= {"name", "repo", "revision"}:
        at = f"@{source['revision']}" if source.get("revision") else ""
        name = f"{source['name']}:{source['repo']}{at}"
    else:
        return None
    columns = one.columns or {}
    if not _writable(columns):
        return None
    words = [name]
    words += ["--format", one.format] if one.format != "auto" else []
    words += ["--columns", ",".join(f"{k}={v}" for k, v in columns.items())] if columns else []
    words += ["--images", one.image_folder] if one.image_folder else []
    words += ["--max-rejected", str(max_rejected)] if max_rejected else []
    return shlex.join(words)


def _writable(columns: Mapping[str, str]) -> bool:
    """Whether --columns can say them."""
    words = [*columns, *columns.values()]
    return not any("," in word or word != word.strip() or not word for word in words) and "=" not in "".join(columns)
