"""`ftx chat`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftx.cli.options import family_options, given_family
from ftx.console import Console
from ftx.plugins import Registry

if TYPE_CHECKING:
    from ftx.talk import Sampling, Talk


@click.command(epilog="In the chat: /image PATH shows a picture, /reset forgets the conversation, /exit ends it.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--once", metavar="QUESTION", help="Ask one question, print the answer, end.")
@click.option(
    "--image", "images", multiple=True, type=click.Path(path_type=Path), help="A picture for the first question."
)
@click.option("--system", help="System message.")
@click.option("--system-template", metavar="NAME", help="System message by the name of one of XTuner's.")
@click.option("--base", type=click.Path(path_type=Path), help="The base of an adapter, when it has moved.")
@click.option("--template", default="auto", help="Template; default: the one the model was trained with.")
@click.option("--other-template", is_flag=True, help="Allow a template that the model was not trained with.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=512, show_default=True)
@click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0: greedy.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@family_options
@click.option("--json", "json_lines", is_flag=True, help="JSON events on stdout.")
@click.pass_obj
def chat(
    registry: Registry,
    path: Path,
    once: str | None,
    images: tuple[Path, ...],
    system: str | None,
    system_template: str | None,
    base: Path | None,
    template: str,
    other_template: bool,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    family: str | None,
    settings: tuple[str, ...],
    json_lines: bool,
) -> None:
    """Talk with the model in PATH: a model folder, a run, an adapter or a merged model.

    Questions may come through a pipe, one a line; answers go to stdout alone.
    """
    from ftx.data.named import system_text
    from ftx.talk import Sampling, open_talk

    console = Console(json_lines=json_lines)
    options = given_family(family, settings)
    talk = open_talk(path, registry, base=base, options=options, template=template, other_template=other_template)
    talk.system = system_text(system_template) if system_template else system
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    if once is not None:
        _answer(talk, once, sampling, console, images)
    else:
        _converse(talk, sampling, console, images)


def _converse(talk: Talk, sampling: Sampling, console: Console, images: tuple[Path, ...]) -> None:
    human = sys.stdin.isatty()
    shown = list(images)
    if human:
        console.say(
            "/image PATH shows a picture with the next question, /reset forgets the conversation, /exit ends it"
        )
    while True:
        if human:
            console.rich.print(">>> ", end="")
        line = sys.stdin.readline()
        question = line.strip()
        if not line or question == "/exit":
            return
        if question == "/reset":
            talk.reset()
        elif question.startswith("/image "):
            shown.append(Path(question.removeprefix("/image ").strip()))
        elif question.startswith("/"):
            console.warn(f"no command {question}; there are /image PATH, /reset and /exit")
        elif question:
            _answer(talk, question, sampling, console, shown)
            shown.clear()


def _answer(talk: Talk, question: str, sampling: Sampling, console: Console, images: Sequence[Path] = ()) -> None:
    if console.json_lines:
        answer = talk.ask(question, sampling, images=images)
        console.event({"event": "answer", "question": question, **vars(answer)})
        return
    answer = talk.ask(question, sampling, lambda text: console.output(text, end=""), images)
    console.output("")
    if not answer.stopped:
        console.warn(f"the answer was cut off after {answer.tokens} tokens (--max-new-tokens)")
