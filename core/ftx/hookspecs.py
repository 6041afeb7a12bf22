"""Every hook of ftx. All collect results from every plugin unless marked firstresult.

Registration must do no I/O and import nothing heavy: torch and transformers are imported inside methods.
Arguments may be added later, never renamed; an implementation names only the ones it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from ftx.artifact import Artifact
    from ftx.cli.group import CommandGroup
    from ftx.contracts import AppTemplate, DataFormat, DataSource, ModelFamily, Publisher, TrainMethod
    from ftx.environments import Environment
    from ftx.plan import Plan
    from ftx.run import Run

hookspec = pluggy.HookspecMarker("ftx")
hookimpl = pluggy.HookimplMarker("ftx")


@hookspec
def ftx_data_sources() -> Iterable[type[DataSource]]:
    """Called once at start. The data source classes this plugin brings. Since 0.1."""


@hookspec
def ftx_data_formats() -> Iterable[type[DataFormat]]:
    """Called once at start. The row format classes this plugin brings. Since 0.1.

    Detection takes the one that recognises most of the sampled rows, the first registered among equals.
    """


@hookspec
def ftx_model_families() -> Iterable[type[ModelFamily]]:
    """Called once at start. The model family classes this plugin brings. Since 0.1."""


@hookspec
def ftx_train_methods() -> Iterable[type[TrainMethod]]:
    """Called once at start. The training method classes this plugin brings. Since 0.1."""


@hookspec
def ftx_publishers() -> Iterable[type[Publisher]]:
    """Called once at start. The publisher classes this plugin brings. Since 0.1."""


@hookspec
def ftx_app_templates() -> Iterable[type[AppTemplate]]:
    """Called once at start. The app template classes this plugin brings. Since 0.1."""


@hookspec
def ftx_environments() -> Iterable[Environment]:
    """Called by `ftx env` and when a plugin asks for its interpreter. Since 0.1.

    :returns: the environments of their own that this plugin's tools need; see `ftx.environments`.
    """


@hookspec(firstresult=True)
def ftx_detect_family(config: Mapping[str, Any]) -> str | None:
    """Called when the recipe names no family. Stops at the first non-None result. Since 0.1.

    :param config: the model folder's config.json as parsed.
    :returns: the name of the family that reads such a folder, or None to let others decide.
    """


@hookspec(firstresult=True)
def ftx_model_folder(hub: str, repo: str, revision: str | None) -> Path | None:
    """Called when a recipe's model is `hub:owner/name@revision`. Stops at the first non-None result. Since 0.1.

    :returns: the folder of the model, downloaded where it is not there yet, or None for another's hub. Raises FtxError.
    """


@hookspec
def ftx_check_plan(plan: Plan) -> Iterable[str]:
    """Called when a plan is complete, before any device is touched. Since 0.1.

    :returns: one sentence per reason the plan cannot run; nothing when it can.
    """


@hookspec
def ftx_run_started(run: Run) -> None:
    """Called in the main process once the run folder exists and the model is loaded. Since 0.1."""


@hookspec
def ftx_step_done(run: Run, step: int, metrics: Mapping[str, float]) -> None:
    """Called in the main process after every optimizer step, `step` counting from 1. Since 0.1.

    Reads only: nothing returned or changed here alters the training. On a GPU the next step is under way by then,
    unless something is saved or asked after this one.
    """


@hookspec
def ftx_run_finished(run: Run, artifact: Artifact) -> None:
    """Called in the main process when the artefact is sealed. Since 0.1."""


@hookspec
def ftx_add_commands(group: CommandGroup) -> None:
    """Called when the command line starts. Since 0.1.

    Add a command with ``group.add_lazy("name", "module:function", "one line of help")``; its module is
    imported only when the command runs.
    """
