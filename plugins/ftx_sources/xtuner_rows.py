"""XTuner's 20 dataset map functions, replayed exactly (reference: xtuner_map_fns.json, XTuner 0.1.23).

`REPLAYS` maps XTuner's names to formats called `<name>_map_fn`, the functions' own names; where ftx has no format of
the short name, that names it too. Rows that XTuner drops or crashes on are rejected with a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from ftx import Conversation, DataFormat, Message, RowError
from ftx.data.conversation import IMAGE
from ftx.data.named import system_texts
from ftx_sources.fields import items, joined, text
from ftx_sources.msagent import react_turns

Turn = dict[str, Any]
TAG = "<image>"


class MapFn(DataFormat):
    """A map function of XTuner's: `turns` gives what XTuner puts under 'conversation'."""

    evidence: ClassVar[tuple[str, ...]] = ()  # columns that no other format has; without any it must be named
    turns: ClassVar[Callable[[Any], list[Turn]]]

    def recognise(self, value: Any) -> str | None:
        if self.evidence and isinstance(value, dict) and all(key in value for key in self.evidence):
            return "has " + " and ".join(f"'{key}'" for key in self.evidence)
        return None

    def parse(self, value: Any) -> Conversation:
        turns = type(self).turns(value)
        if not turns:
            raise RowError("XTuner drops such a row: it holds no turn to learn", "remove the row")
        return conversation(turns, value.get("image"))


def conversation(turns: list[Turn], image: Any = None) -> Conversation:
    """XTuner's turns as a conversation; `image` is the row's picture, a path or a list with one."""
    if len(turns) == 1 and turns[0].get("need_eos_token") is False:
        return Conversation.of([Message("text", turns[0]["output"], ends=False)])
    messages: list[Message] = []
    left = _paths(image)
    for turn in turns:
        if turn.get("system"):
            messages.append(Message("system", turn["system"]))
        question = turn.get("input", "")
        shown: list[str] = []
        if left and TAG in question:
            count = question.count(TAG)
            shown, left = left[:count], left[count:]
            question = question.replace(TAG, IMAGE)
        messages.append(Message("user", question, images=tuple(shown)))
        messages.append(Message("assistant", turn["output"], turn.get("output_with_loss", True)))
    if left:
        raise RowError("the row has an image and no <image> mark for it", "put <image> into the question")
    return Conversation.of(messages, many_systems=True)


def _paths(image: Any) -> list[str]:
    paths = image if isinstance(image, list) else [image] if image is not None else []
    if not all(isinstance(path, str) for path in paths):
        raise RowError("'image' is no path", "write 'image' as the path of a picture")
    return [*paths]


REPLAYS: dict[str, type[MapFn]] = {}
OWN = ("alpaca", "openai", "llava")  # short names that ftx's own formats have


def replay(name: str, *evidence: str) -> Callable[[Callable[[Any], list[Turn]]], Callable[[Any], list[Turn]]]:
    """Register a function from a row to XTuner's turns as the format `<name>_map_fn`."""

    def register(turns: Callable[[Any], list[Turn]]) -> Callable[[Any], list[Turn]]:
        body = {
            "__doc__": turns.__doc__,
            "__module__": __name__,
            "name": f"{name}_map_fn",
            "aliases": () if name in OWN else (name,),
            "evidence": evidence,
            "turns": staticmethod(turns),
        }
        REPLAYS[name] = type(f"{name.title().replace('_', '')}MapFn", (MapFn,), body)
        return turns

    return register


def _pair(name: str, question: str, answer: str, system: str | None = None) -> None:
    """Register a map function that takes one column as the question and one as the answer."""

    def turns(row: Any) -> list[Turn]:
        head = {"system": system_texts()[system]} if system else {}
        return [{**head, "input": text(row, question), "output": text(row, answer)}]

    turns.__doc__ = f"XTuner's {name}_map_fn: {question}, {answer}" + (f", system text '{system}'." if system else ".")
    replay(name)(turns)


_pair("default", "input", "output")
_pair("stack_exchange", "question", "response")
_pair("arxiv", "abstract", "title", "arxiv_gentile")
_pair("code_alpaca", "prompt", "completion", "coder")
_pair("tiny_codes", "prompt", "response", "coder")
_pair("crime_kg_assitan", "input", "output", "lawyer")
_pair("law_reference", "question", "answer", "lawyer")


@replay("alpaca")
def alpaca(row: Any) -> list[Turn]:
    """XTuner's alpaca_map_fn: instruction and input joined by a line break, even when input is empty."""
    if text(row, "output") == "<nooutput>":
        return []
    return [{"input": joined(row, "instruction", "input"), "output": row["output"]}]


@replay("alpaca_zh", "instruction_zh", "input_zh", "output_zh")
def alpaca_zh(row: Any) -> list[Turn]:
    """XTuner's alpaca_zh_map_fn: instruction_zh, input_zh, output_zh."""
    return [{"input": joined(row, "instruction_zh", "input_zh"), "output": text(row, "output_zh")}]


@replay("colors")
def colors(row: Any) -> list[Turn]:
    """XTuner's colors_map_fn: description after its first colon, color, system text 'colorist'."""
    described = text(row, "description").partition(":")[2].strip()
    return [{"system": system_texts()["colorist"], "input": described, "output": text(row, "color")}]


@replay("medical")
def medical(row: Any) -> list[Turn]:
    """XTuner's medical_map_fn: instruction, input, output, system text 'medical'."""
    question = joined(row, "instruction", "input")
    return [{"system": system_texts()["medical"], "input": question, "output": text(row, "output")}]


@replay("sql")
def sql(row: Any) -> list[Turn]:
    """XTuner's sql_map_fn: context, question, answer, system text 'sql'."""
    question = joined(row, "context", "question")
    return [{"system": system_texts()["sql"], "input": question, "output": text(row, "answer")}]


@replay("openorca", "system_prompt", "question", "response")
def openorca(row: Any) -> list[Turn]:
    """XTuner's openorca_map_fn: system_prompt, question, response."""
    return [{"system": text(row, "system_prompt"), "input": text(row, "question"), "output": text(row, "response")}]


@replay("pretrain")
def pretrain(row: Any) -> list[Turn]:
    """XTuner's pretrain_map_fn: text, stripped, with no end of text after it."""
    return [{"input": "", "output": text(row, "text").strip(), "need_eos_token": False}]


@replay("oasst1")
def oasst1(row: Any) -> list[Turn]:
    """XTuner's oasst1_map_fn: text with '### Human:' and '### Assistant:'; a last question alone is dropped."""
    said: list[str] = []
    for part in text(row, "text").strip().split("###"):
        for speaker in ("Human:", "Assistant:"):
            if part.strip().startswith(speaker):
                said.append(part.strip().removeprefix(speaker).strip())
    return [{"input": q, "output": a} for q, a in zip(said[::2], said[1::2], strict=False)]


@replay("openai")
def openai(row: Any) -> list[Turn]:
    """XTuner's openai_map_fn: leading answers are dropped, questions in a row joined without a space."""
    turns: list[Turn] = []
    system = question = ""
    for message in _after_leading(items(row, "messages"), "role", "assistant"):
        role, said = text(message, "role"), text(message, "content")
        if role == "system":
            system = said
        elif role == "user":
            question += said
        elif role == "assistant":
            loss = str(message.get("loss", True)).lower() == "true"
            turns.append({"system": system, "input": question, "output": said, "output_with_loss": loss})
            system = question = ""
        else:
            raise RowError(f"role '{role}' is not known to XTuner", "use system, user or assistant")
    return turns


@replay("wizardlm")
def wizardlm(row: Any) -> list[Turn]:
    """XTuner's wizardlm_map_fn: conversations of human and gpt; leading answers are dropped."""
    return _spoken(row, lambda said: said)


@replay("llava")
def llava(row: Any) -> list[Turn]:
    """XTuner's llava_map_fn: as wizardlm, with <image> moved to the front of its question."""
    return _spoken(row, _image_first)


@replay("llava_image_only")
def llava_image_only(row: Any) -> list[Turn]:
    """XTuner's llava_image_only_map_fn: every question is <image> alone."""

    def only(said: str) -> str:
        if TAG not in said:
            raise RowError("a question has no <image>", "use format llava_map_fn")
        return TAG

    return _spoken(row, only)


@replay("msagent_react")
def msagent_react(row: Any) -> list[Turn]:
    """XTuner's msagent_react_map_fn: MSAgent dialogues as ReAct; the text of a list is parsed, never evaluated."""
    return react_turns(row)


def _image_first(said: str) -> str:
    return f"{TAG}\n{said.replace(TAG, '').strip()}".strip() if TAG in said else said


def _after_leading(messages: list[Any], key: str, speaker: str) -> list[Any]:
    while messages and text(messages[0], key) == speaker:
        messages = messages[1:]
    return messages


def _spoken(row: Any, question_of: Callable[[str], str]) -> list[Turn]:
    turns: list[Turn] = []
    question = ""
    for message in _after_leading(items(row, "conversations"), "from", "gpt"):
        speaker, said = text(message, "from"), text(message, "value")
        if speaker == "human":
            question += question_of(said)
        elif speaker == "gpt":
            turns.append({"input": question, "output": said})
            question = ""
        else:
            raise RowError(f"speaker '{speaker}' is not known to XTuner", "use human or gpt")
    return turns
