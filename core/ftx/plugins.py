"""Loads plugins and keeps the registry of parts.

Built-ins come from a tuple in code, strangers by the entry point group "ftx", one by one: a broken one
is remembered with its reason and skipped. FTX_PLUGINS chooses strangers: "none", or names joined by commas.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import pluggy

from ftx import hookspecs
from ftx.errors import FtxError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from ftx.cli.group import CommandGroup
    from ftx.contracts import AppTemplate, DataFormat, DataSource, ModelFamily, Part, Publisher, TrainMethod
    from ftx.plan import Plan

BUILTIN = (
    "ftx_sources",
    "ftx_methods",
    "ftx_internlm2",
    "ftx_internvl",
    "ftx_llava",
    "ftx_transformers",
    "ftx_quickstart",
    "ftx_xtuner",
    "ftx_lmdeploy",
    "ftx_git",
    "ftx_openxlab",
    "ftx_huggingface",
    "ftx_modelscope",
    "ftx_apps",
)
GROUP = "ftx"

# kind of part -> the hook that contributes it
HOOKS = {
    "source": "ftx_data_sources",
    "format": "ftx_data_formats",
    "family": "ftx_model_families",
    "method": "ftx_train_methods",
    "publisher": "ftx_publishers",
    "app": "ftx_app_templates",
}


class PluginError(FtxError):
    """A plugin breaks the contract in a way that leaves no safe choice."""

    kind = "plugin"


@dataclass(frozen=True)
class Origin:
    """Who brought a plugin: `distribution` is "built-in" or the name of the installed package."""

    plugin: str
    distribution: str
    version: str


@dataclass
class Refused:
    """A plugin that could not be loaded, and why."""

    origin: Origin
    reason: str


@dataclass
class Registry:
    """All parts by kind and name, the hooks, and the plugins that were refused."""

    pm: pluggy.PluginManager
    parts: dict[str, dict[str, type[Part]]] = field(default_factory=lambda: {kind: {} for kind in HOOKS})
    origins: dict[tuple[str, str], Origin] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)

    def add(self, plugin: object, origin: Origin) -> None:
        """Register a plugin and its parts: all of them, or none when one breaks the contract."""
        self.pm.register(plugin, name=origin.plugin)
        try:
            self.pm.check_pending()
            new = list(self._contributed(plugin))
            for part in new:
                self._refuse_duplicate(part, new, origin)
        except Exception:
            self.pm.unregister(plugin)
            raise
        for part in new:
            self.parts[part.kind][part.name] = part
            self.origins[part.kind, part.name] = origin

    def _contributed(self, plugin: object) -> Iterator[type[Part]]:
        for kind, hook in HOOKS.items():
            contribute = getattr(plugin, hook, None)
            for part in contribute() if contribute else ():
                if getattr(part, "kind", None) != kind or not getattr(part, "name", ""):
                    raise PluginError(f"{hook} gave {part!r}, which is no named {kind} class")
                yield part

    def _refuse_duplicate(self, part: type[Part], new: list[type[Part]], origin: Origin) -> None:
        other = self.parts[part.kind].get(part.name)
        twins = [p for p in new if p is not part and (p.kind, p.name) == (part.kind, part.name)]
        for taken in [other] if other else twins:
            raise PluginError(
                f"{part.kind} '{part.name}' is both {taken.__module__}.{taken.__qualname__} and "
                f"{part.__module__}.{part.__qualname__} (plugin '{origin.plugin}'): one must take another name"
            )

    def get(self, kind: str, name: str) -> type[Part]:
        """The part class of that name. Raises RecipeError naming the closest one."""
        known = self.parts[kind]
        if name not in known:
            raise RecipeError(f"{kind} '{name}' is not known; {did_you_mean(name, known)}")
        return known[name]

    def source(self, name: str) -> type[DataSource]:
        return cast("type[DataSource]", self.get("source", name))

    def family(self, name: str) -> type[ModelFamily]:
        return cast("type[ModelFamily]", self.get("family", name))

    def method(self, name: str) -> type[TrainMethod]:
        return cast("type[TrainMethod]", self.get("method", name))

    def app(self, name: str) -> type[AppTemplate]:
        return cast("type[AppTemplate]", self.get("app", name))

    def format(self, name: str) -> type[DataFormat]:
        """The format called `name`, or that has it for an alias."""
        aliased = [part for part in self.formats() if name in part.aliases]
        if name not in self.parts["format"] and aliased:
            return aliased[0]
        return cast("type[DataFormat]", self.get("format", name))

    def publisher(self, name: str) -> type[Publisher]:
        return cast("type[Publisher]", self.get("publisher", name))

    def hub_variables(self) -> tuple[str, ...]:
        """Those of the environment that publishers read: tokens, keys, and the names of users."""
        kinds = [self.publisher(name) for name in self.parts["publisher"]]
        return tuple(dict.fromkeys(name for kind in kinds for name in (*kind.variables(), *kind.also)))

    def formats(self) -> Iterable[type[DataFormat]]:
        return cast("Iterable[type[DataFormat]]", self.parts["format"].values())

    def versions(self) -> dict[str, str]:
        """Version of each plugin that contributes a part."""
        return {origin.plugin: origin.version for origin in self.origins.values()}

    def detect_family(self, config: Mapping[str, Any]) -> str | None:
        return cast("str | None", self.pm.hook.ftx_detect_family(config=config))

    def model_folder(self, hub: str, repo: str, revision: str | None) -> Path | None:
        return cast("Path | None", self.pm.hook.ftx_model_folder(hub=hub, repo=repo, revision=revision))

    def check_plan(self, plan: Plan) -> list[str]:
        return [sentence for found in self.pm.hook.ftx_check_plan(plan=plan) for sentence in found or ()]

    def add_commands(self, group: CommandGroup) -> None:
        """Let every plugin add its commands; one that fails is taken out, with all else it brought."""
        for name, plugin in self.pm.list_name_plugin():
            add = getattr(plugin, "ftx_add_commands", None)
            if add is None:
                continue
            try:
                add(group=group)
            # As when it is loaded: a stranger may fail in any way, and must not stop ftx.
            except (Exception, SystemExit) as error:
                if name in BUILTIN:
                    raise
                self._remove(name, plugin, error)

    def _remove(self, name: str, plugin: object, error: BaseException) -> None:
        self.pm.unregister(plugin)
        gone = [key for key, origin in self.origins.items() if origin.plugin == name]
        origin = self.origins[gone[0]] if gone else Origin(name, "?", "?")
        for kind, part in gone:
            del self.parts[kind][part], self.origins[kind, part]
        self.refused.append(Refused(origin, f"{type(error).__name__}: {error}"))


def load_registry(strangers: str | None = None) -> Registry:
    """The registry with all built-ins and the chosen strangers.

    `strangers` overrides FTX_PLUGINS. A broken stranger never raises: it lands in `refused`.
    """
    from ftx import __version__

    pm = pluggy.PluginManager("ftx")
    pm.add_hookspecs(hookspecs)
    registry = Registry(pm)
    for name in BUILTIN:
        registry.add(_import(name), Origin(name, "built-in", __version__))
    chosen = os.environ.get("FTX_PLUGINS", "all") if strangers is None else strangers
    # To look for them reads every distribution that is installed.
    for entry in sorted(() if chosen == "none" else entry_points(group=GROUP), key=lambda e: e.name):
        if chosen == "all" or entry.name in chosen.split(","):
            _add_stranger(registry, entry)
    return registry


def _import(name: str) -> ModuleType:
    return importlib.import_module(name)


def _add_stranger(registry: Registry, entry: EntryPoint) -> None:
    package = entry.dist
    origin = Origin(entry.name, package.name if package else "?", package.version if package else "?")
    try:
        registry.add(entry.load(), origin)
    # A stranger's module may fail in any way at import, and must not stop ftx: the reason is kept and shown.
    except (Exception, SystemExit) as error:
        registry.refused.append(Refused(origin, f"{type(error).__name__}: {error}"))
