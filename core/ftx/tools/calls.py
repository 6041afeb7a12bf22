"""What a model calls, run, and what came of it: MOSS's protocol, as XTuner 0.1's chat spoke it.

The model writes `<|Commands|>: Calculate("1+2")<eoc>`; the template frames what the tools gave as `<|Results|>`, that
is `Calculate("1+2") => 3`; then the model answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ftx.data.conversation import Message, RowError
from ftx.data.named import system_text
from ftx.errors import RecipeError
from ftx.talk import Answer, Sampling, Talk
from ftx.tools.calculate import NoResult, calculate
from ftx.tools.search import refuse_without_key, search
from ftx.tools.solve import solve

END = "<eoc>"
ROUNDS = 4  # calls in answer to one question
CALL = re.compile(r'\b(calculat|solve|search)\w*\("([^"]*)"\)', re.IGNORECASE)
TOOLS: dict[str, Callable[[str], str]] = {"calculate": calculate, "solve": solve, "search": search}
# What XTuner's system text says of each, on and off.
LINES = {
    "search": "Web search: enabled. API: Search(query)",
    "calculate": "Calculator: enabled. API: Calculate(expression)",
    "solve": "Equation solver: enabled. API: Solve(equation)",
}
BOT = "BOT"  # XTuner's default


def ready(talk: Talk, tools: Sequence[str]) -> None:
    """Check that tools can be used in this talk. Raises RecipeError."""
    if "search" in tools:
        refuse_without_key()
    probe = [Message("user", "a"), Message("assistant", "b"), Message("tool", "c")]
    try:
        talk.template.prompt(probe, talk.tokenizer)
    except RowError as error:
        raise RecipeError(
            f"--tools: {error.reason}; tools need a model that was trained on tool data, as with template moss_sft"
        ) from None


def system_for(tools: Sequence[str]) -> str:
    """The system text that such models were trained on, with the tools that are on."""
    text = system_text("moss_sft").replace("{bot_name}", BOT)
    for tool, line in LINES.items():
        if tool not in tools:
            text = text.replace(line, line.partition(":")[0] + ": disabled.")
    return text


def results(said: str, tools: Sequence[str]) -> str:
    """What the calls in `said` give, one after the other; "None" for what is off or called nothing."""
    found = [_result(name.lower(), given, tools) for name, given in CALL.findall(said)]
    return "\n".join(found) or "None"


def _result(name: str, given: str, tools: Sequence[str]) -> str:
    tool = "calculate" if name == "calculat" else name
    if tool not in tools:
        came = "None"
    else:
        try:
            came = TOOLS[tool](given)
        except NoResult as reason:
            came = f"error: {reason}"
    return f'{tool.capitalize()}("{given}") => {came}'


def ask(
    talk: Talk,
    question: str,
    sampling: Sampling,
    tools: Sequence[str],
    show: Callable[[str], None] | None,
    ran: Callable[[str], None],
) -> Answer:
    """The answer to `question` once all calls are made; `ran` gets what they gave. Raises RecipeError."""
    asking = Sampling(**{**vars(sampling), "stop": (*sampling.stop, END)})
    answer = talk.ask(question, asking, show)
    for _ in range(ROUNDS):
        if answer.word != END:
            break
        # As it was learnt: the words that end a call are a part of the message.
        talk.history[-1] = Message("assistant", answer.text + END)
        came = results(answer.text, tools)
        ran(came)
        answer = talk.tell(came, asking, show)
    return answer
