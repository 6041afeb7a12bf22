"""`ftx ci`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftx.cli.options import part_options
from ftx.console import Console
from ftx.errors import RecipeError, did_you_mean
from ftx.plugins import Registry

if TYPE_CHECKING:
    from ftx.ci.pipeline import Publishing

FOLDER = click.Path(path_type=Path)
# What the command that stands in the files leaves out: where they were written, and how it was told.
NOT_OF_THE_FILES = ("recipe", "out", "force", "json_lines")


@click.group()
def ci() -> None:
    """Train in a pipeline: check data, train, compare, verify, publish."""


@ci.command(epilog="Example: ftx ci init gitlab --recipe cats.yaml --image registry.example.org/ftx@sha256:...")
@click.argument("kind", metavar="github|gitlab|jenkins|shell")
@click.option("--recipe", type=FOLDER, default=Path("recipe.yaml"), show_default=True, help="What is trained.")
@click.option("--image", metavar="NAME", help="Image of all jobs, by digest where it can be; for shell: none.")
@click.option("--runner", metavar="LABEL", help="The runner that trains, by its label or tag.")
@click.option("--gpus", is_flag=True, help="Give the training the runner's GPUs.")
@click.option("--merge", is_flag=True, help="Merge the adapter too.")
@click.option("--probes", type=FOLDER, help="Questions of the report; default: the recipe's.")
@click.option("--publish", "hub", metavar="HUB", help="Publisher of a step that is started by hand.")
@click.option("--repo", metavar="OWNER/NAME", help="The repository on HUB.")
@click.option("--base", metavar="OWNER/NAME", help="The base model, as it is called on the hub.")
@click.option("--license", "licence", metavar="ID", help="The licence of the result; default: the base's.")
@click.option("--license-agreed", is_flag=True, help="Answer for a licence that the base's does not name or allow.")
@click.option("--set", "settings", multiple=True, metavar="A=B", help="An option of HUB, as host=https://...")
@click.option("--out", type=FOLDER, default=Path(), help="The project's folder; default: this one.")
@click.option("--force", is_flag=True, help="Write over what is there.")
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def init(
    registry: Registry,
    kind: str,
    recipe: Path,
    image: str | None,
    runner: str | None,
    gpus: bool,
    merge: bool,
    probes: Path | None,
    hub: str | None,
    repo: str | None,
    base: str | None,
    licence: str | None,
    license_agreed: bool,
    settings: tuple[str, ...],
    out: Path,
    force: bool,
    json_lines: bool,
) -> None:
    """Write the pipeline of the project in --out, for its recipe."""
    from ftx.ci.inputs import inside, read_inputs
    from ftx.ci.pipeline import FILES, Pipeline, refuse_image, refuse_runner, rendered, write

    if kind not in FILES:
        raise RecipeError(f"there is no pipeline for '{kind}'; {did_you_mean(kind, FILES)}")
    refuse_image(image, kind)
    refuse_runner(runner, gpus, kind)
    publish = _publishing(registry, hub, repo, base, licence, license_agreed, settings)
    inputs = read_inputs(recipe, out, registry)
    if merge and not inputs.adapter:
        raise RecipeError(
            "--merge: the recipe's method trains a whole model, and nothing is left to merge; leave it out"
        )
    if publish and inputs.adapter and inputs.local and not (merge or base):
        raise RecipeError(
            "--publish: an adapter goes out with its base's name on the hub: --base OWNER/NAME, or --merge"
        )
    pipeline = Pipeline(
        kind,
        inputs,
        _command(inputs.recipe),
        image,
        runner,
        gpus,
        merge,
        inside(probes, out, "--probes") if probes else None,
        publish,
    )
    texts = rendered(pipeline)
    write(texts, out, force=force)
    console = Console(json_lines=json_lines)
    console.event({"event": "written", "files": [str(out / name) for name in texts]})
    console.say("written: " + ", ".join(str(out / name) for name in texts))
    if image and "@" not in image:
        console.say(f"note: {image} may become another image; one named by its digest stays what it is")


def _command(recipe: str) -> str:
    """The command line that writes the same again, to be run in the project's folder."""
    context = click.get_current_context()
    words = ["ftx", "ci", "init", context.params["kind"], "--recipe", recipe]
    for option in context.command.params:
        value = context.params[str(option.name)]
        if isinstance(option, click.Argument) or option.name in NOT_OF_THE_FILES or not value:
            continue
        for one in value if isinstance(value, tuple) else (value,):
            words += [option.opts[0], *([] if one is True else [str(one)])]
    if wild := [word for word in words if not word.isprintable()]:
        raise RecipeError(f"{wild[0]!r} holds a line break or the like, which no pipeline is to be given")
    return shlex.join(words)


def _publishing(
    registry: Registry,
    hub: str | None,
    repo: str | None,
    base: str | None,
    licence: str | None,
    license_agreed: bool,
    settings: tuple[str, ...],
) -> Publishing | None:
    """What the options say of publishing. Raises RecipeError."""
    from ftx.ci.pipeline import Publishing
    from ftx.publish.road import REPO

    about: dict[str, list[str | None]] = {
        "--repo": [repo],
        "--base": [base],
        "--license": [licence],
        "--license-agreed": ["yes" if license_agreed else None],
        "--set": list(settings),
    }
    if hub is None:
        if alone := [flag for flag, values in about.items() if any(values)]:
            raise RecipeError(f"{alone[0]} goes with --publish HUB")
        return None
    part = registry.publisher(hub)
    part_options(part, settings)
    if repo is None:
        raise RecipeError("--publish goes with --repo OWNER/NAME")
    for flag, name in (("--repo", repo), ("--base", base)):
        if name is not None and not REPO.fullmatch(name):
            raise RecipeError(f"{flag} {name}: write it as OWNER/NAME, as it is called on the hub")
    words = [word for flag in ("--base", "--license", "--set") for one in about[flag] if one for word in (flag, one)]
    words += ["--license-agreed"] if license_agreed else []
    return Publishing(hub, repo, tuple(shlex.quote(word) for word in words), part.variables())
