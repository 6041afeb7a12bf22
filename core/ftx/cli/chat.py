"""`ftx chat`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftx.cli.options import FiniteRange, family_options, given_family
from ftx.console import Console
from ftx.errors import FtxError, RecipeError
from ftx.lasting import output_lost
from ftx.plugins import Registry

if TYPE_CHECKING:
    from ftx.talk import Answer, Sampling, Talk


HELP = (
    "/image PATH shows a picture with the next question, /system TEXT says how to answer, /save FILE writes the "
    "conversation as a row to train on, /reset forgets it, /exit ends"
)


@click.command(epilog=f"In the chat: {HELP}.")
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
@click.option("--temperature", type=FiniteRange(0), default=0.0, show_default=True, help="0: greedy.")
@click.option("--top-p", type=FiniteRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--seed", type=click.IntRange(-(2**63), 2**63 - 1), default=0, show_default=True)
@click.option("--stop", multiple=True, metavar="WORD", help="A text that ends an answer; may be repeated.")
@click.option("--bits", type=click.Choice(["4", "8"]), help="Hold the model in so many bits, by bitsandbytes.")
@click.option(
    "--tools",
    multiple=True,
    type=click.Choice(["calculate", "solve", "search"]),
    help="A tool that the model may call, if it was trained on MOSS's plugin data; may be repeated.",
)
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
    stop: tuple[str, ...],
    bits: str | None,
    tools: tuple[str, ...],
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
    if any(not word for word in stop):
        raise RecipeError("--stop: a stop word is empty; leave it out")
    talk = open_talk(
        path,
        registry,
        base=base,
        options=options,
        template=template,
        other_template=other_template,
        bits=int(bits) if bits else None,
    )
    talk.system = system_text(system_template) if system_template else system
    if tools:
        _prepare_tools(talk, tools, images)
    session = _Session(talk, Sampling(max_new_tokens, temperature, top_p, seed, stop), console, tools, list(images))
    if once is not None:
        session.answer(once)
    else:
        session.converse()


def _prepare_tools(talk: Talk, tools: tuple[str, ...], images: tuple[Path, ...]) -> None:
    from ftx.tools import calls

    if images:
        raise RecipeError("--tools and --image do not go together; leave one out")
    calls.ready(talk, tools)
    talk.system = talk.system or calls.system_for(tools)


@dataclass
class _Session:
    """A conversation on the terminal or through a pipe; `shown` are pictures for the next question."""

    talk: Talk
    sampling: Sampling
    console: Console
    tools: tuple[str, ...]
    shown: list[Path]

    def converse(self) -> None:
        """Answer line by line, until the lines end or nobody reads the answers."""
        human = sys.stdin.isatty()
        if human:
            self.console.say(HELP)
        while output_lost() is None:
            if human:
                self.console.rich.print(">>> ", end="")
            line = sys.stdin.readline()
            question = line.strip()
            if not line or question == "/exit":
                return
            if question.startswith("/"):
                self._command(*question.partition(" ")[::2])
            elif question and human:
                self._answer_on(question)
            elif question:
                self.answer(question)

    def _answer_on(self, question: str) -> None:
        """Answer; somebody who sits here reads what is wrong with a question and asks another."""
        try:
            self.answer(question)
        except RecipeError as error:
            for problem in error.problems:
                self.console.warn(problem)

    def _command(self, name: str, rest: str) -> None:
        given = rest.strip()
        if name == "/reset":
            self.talk.reset()
        elif name == "/image" and given and self.tools:
            self.console.warn("with --tools no picture is shown; end with /exit and start without --tools")
        elif name == "/image" and given:
            self.shown.append(Path(given))
        elif name == "/system":
            self.talk.system = given or None
        elif name == "/save" and given:
            self._save(Path(given))
        else:
            self.console.warn(f"no command {name} {given}".rstrip() + "; there are " + HELP)

    def _save(self, path: Path) -> None:
        from ftx.conversation_file import save_conversation

        try:
            rows = save_conversation(self.talk, path)
        except FtxError as error:  # a chat goes on when a file cannot be written
            for problem in error.problems:
                self.console.warn(problem)
            return
        self.console.event({"event": "saved", "file": str(path), "rows": rows})
        self.console.say(f"saved as row {rows} of {path}")

    def answer(self, question: str) -> None:
        """Ask, and show the answer as it comes."""
        images, self.shown = self.shown, []
        answer = self._asked(question, images)
        if self.console.json_lines:
            self.console.event({"event": "answer", "question": question, **vars(answer)})
            return
        self.console.output("")
        if not answer.stopped:
            self.console.warn(f"the answer was cut off after {answer.tokens} tokens (--max-new-tokens)")

    def _asked(self, question: str, images: list[Path]) -> Answer:
        show = None if self.console.json_lines else self._show
        if not self.tools:
            return self.talk.ask(question, self.sampling, show, images)
        from ftx.tools import calls

        return calls.ask(self.talk, question, self.sampling, self.tools, show, self._ran)

    def _show(self, text: str) -> None:
        self.console.output(text, end="")

    def _ran(self, came: str) -> None:
        self.console.event({"event": "tools", "results": came})
        if not self.console.json_lines:
            self.console.output("")
            self.console.say(came)
