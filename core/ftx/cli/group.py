"""The group of commands. A command's module is imported only when it runs, so that --help stays quick."""

from __future__ import annotations

import importlib

import click

from ftx import __version__
from ftx.errors import did_you_mean
from ftx.plugins import Registry, load_registry

COMMANDS = {
    "train": ("ftx.cli.train:train", "Tune a model as a recipe and flags say."),
    "plan": ("ftx.cli.plan:plan", "Print what train would do, without doing it."),
    "data": ("ftx.cli.data:data", "Look into data sets, convert, split and make them."),
    "merge": ("ftx.cli.merge:merge", "Merge an adapter into its base and check the result."),
    "verify": ("ftx.cli.verify:verify", "Compare all forms of a model: prompts, logits, answers."),
    "eval": ("ftx.cli.eval:evaluate", "Compare runs with their base and with each other."),
    "chat": ("ftx.cli.chat:chat", "Talk with a base, an adapter or a merged model."),
    "serve": ("ftx.cli.serve:serve", "Answer over HTTP in OpenAI's form."),
    "app": ("ftx.cli.app:app", "Make, check and run an app for a model."),
    "export": ("ftx.cli.export:export", "Write a whole model in another layout, or as GGUF."),
    "publish": ("ftx.cli.publish:publish", "Send a result to a hub, private first, and prove that it arrived."),
    "download": ("ftx.cli.download:download", "Fetch a model from a hub, whole and checked."),
    "run": ("ftx.cli.run_inside:run", "Run a command line of ftx inside a container image."),
    "deploy": ("ftx.cli.deploy:deploy", "Write files for Compose or Kubernetes."),
    "ci": ("ftx.cli.ci:ci", "Write the pipeline of a project: check, train, verify, publish."),
    "size": ("ftx.cli.size:size", "The memory an app of a model needs, and the hubs' machines that have it."),
    "login": ("ftx.cli.login:login", "Keep a hub's token, once the hub has said whose it is."),
    "logout": ("ftx.cli.logout:logout", "Forget a hub's token."),
    "whoami": ("ftx.cli.whoami:whoami", "Who the hubs take you for, and where the tokens come from."),
    "env": ("ftx.cli.env:env", "Environments of their own for plugins that need them."),
    "plugins": ("ftx.cli.plugins:plugins", "List parts, where they come from, and what was refused."),
}


class CommandGroup(click.Group):
    """A click group whose commands are named by "module:function" and loaded on use."""

    def __init__(self) -> None:
        super().__init__(
            "ftx",
            help="From data to a tuned model that is proven, published and answering.",
            epilog="Exit codes: 0 done, 1 bug, 2 usage or recipe, 3 data refused, 4 out of memory, "
            "5 hub or network, 6 interrupted with a checkpoint saved, 7 verification failed, "
            "8 a rank stalled, 9 training diverged, 10 disk, 130 stopped at once.",
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        self._lazy: dict[str, tuple[str, str]] = {}

    def add_lazy(self, name: str, target: str, help: str) -> None:
        """Add command `name`, found at `target` ("module:attribute"); `help` is its line in the list.

        Raises ValueError when the name is taken.
        """
        if name in self._lazy:
            raise ValueError(f"command '{name}' is both {self._lazy[name][0]} and {target}")
        self._lazy[name] = (target, help)

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self._lazy:
            raise click.UsageError(f"no command '{name}'; {did_you_mean(name, self._lazy)}")
        module, _, attribute = self._lazy[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in self._lazy.items()])


def main_group() -> CommandGroup:
    """The `ftx` group with its own commands and those of plugins; the registry is the context's object."""
    group = CommandGroup()
    for name, (target, help) in COMMANDS.items():
        group.add_lazy(name, target, help)
    registry = load_registry()
    registry.add_commands(group)
    group.params.append(
        click.Option(
            ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version."
        )
    )
    group.callback = _keep(registry)
    return group


def _keep(registry: Registry):  # type: ignore[no-untyped-def]
    @click.pass_context
    def keep(context: click.Context) -> None:
        context.obj = registry
        from ftx.console import Console

        for refused in registry.refused:
            Console().warn(f"plugin '{refused.origin.plugin}' is left out: {refused.reason}")

    return keep


def _version(context: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"ftx {__version__}")
        context.exit()
