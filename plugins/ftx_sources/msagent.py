"""MSAgent dialogues as ReAct turns, as XTuner 0.1.23 makes them, without evaluating the row's text."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from ftx import RowError
from ftx_sources.fields import text

THINK_MARK, THINK_END = "<|startofthink|>", "<|endofthink|>"
EXEC_MARK = "<|startofexec|>"
EXEC = re.compile(r"(<\|startofexec\|>)(.*?)(<\|endofexec\|>)(.*?)$", re.DOTALL)
FINAL = "Final Answer:"
SYSTEM_HEAD = "你是一个可以调用外部工具的助手，可以使用的工具包括：\n"
SYSTEM_TAIL = (
    "如果使用工具请遵循以下格式回复：\n```\nThought:思考你当前步骤需要解决什么问题，是否需要使用工具\n"
    "Action:工具名称，你的工具必须从 [{names}] 选择\n"
    "Action Input:工具输入参数\n```\n工具返回按照以下格式回复：\n```\nResponse:调用工具后的结果\n```\n"
    "如果你已经知道了答案，或者你不需要工具，请遵循以下格式回复\n```\nThought:给出最终答案的思考过程\n"
    "Final Answer:最终答案\n```\n开始!\n"
)


class _Dropped(Exception):
    """XTuner drops a row whose thought is no JSON."""


def react_turns(row: Any) -> list[dict[str, Any]]:
    """XTuner's turns of a row; none when XTuner drops it. Raises RowError for what is no dialogue at all."""
    dialogue = _dialogue(row)
    if len(dialogue) < 2:
        return []
    turns: list[dict[str, Any]] = []
    system = question = ""
    for message in dialogue:
        speaker, said = text(message, "from"), text(message, "value")
        if speaker == "system":
            system += _system(said)
        elif speaker == "user":
            question += f"{said}\n"
        elif speaker == "assistant":
            try:
                turns += _answer(said, system, question)
            except _Dropped:
                return []
            system = question = ""
    return turns


def _dialogue(row: Any) -> list[Any]:
    value = row.get("conversations") if isinstance(row, dict) else None
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise RowError("'conversations' is text that is no list", "write 'conversations' as a list") from None
    if not isinstance(value, list):
        raise RowError("'conversations' is no list", "write 'conversations' as a list of turns")
    return value


def _system(said: str) -> str:
    tools: dict[Any, Any] = {}
    for tool in _json_objects(said):
        tools[tool["name"]] = tool["description"]
        try:
            given = {p["name"]: p["description"] for p in tool["paths"][0]["parameters"]}
            tools[tool["name"]] += f"\n输入参数: {given}"
        except (KeyError, IndexError, TypeError):
            continue  # a tool without described parameters is listed by its description alone
    try:
        described = str(tools)
    except RecursionError:
        raise RowError("a tool's description is nested too deeply", "write it as text") from None
    return f"{SYSTEM_HEAD}{described}\n" + SYSTEM_TAIL.replace("{names}", str(list(tools)))


def _json_objects(said: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    at = said.find("{")
    while at != -1:
        try:
            found, length = decoder.raw_decode(said[at:])
        except (ValueError, RecursionError):
            found, length = {}, 1
        known = isinstance(found, dict) and "name" in found and "description" in found
        if known and isinstance(found["name"], str):
            yield found
        at = said.find("{", at + (length if known else 1))


def _answer(said: str, system: str, question: str) -> list[dict[str, Any]]:
    before, *after = said.split(EXEC_MARK)
    if len(after) > 1:
        raise _Dropped
    try:
        thought, count = _thoughts(before)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _Dropped from None
    output = f"{thought}\n" if count else f"{FINAL}{thought}\n"
    turns: list[dict[str, Any]] = [{"system": system, "input": question, "output": output}]
    if after:
        turns += _response(EXEC_MARK + after[0])
    return turns


def _response(said: str) -> list[dict[str, Any]]:
    """The tool's result as system text and the final answer after it; nothing when it cannot be read, as in XTuner."""
    try:
        result, *answers = EXEC.sub(_executed, said).split(FINAL)
    except (ValueError, RecursionError):
        return []
    return [{"system": result, "output": FINAL + answers[0]}] if len(answers) == 1 else []


def _bare(fenced: str) -> Any:
    return json.loads(fenced.replace("```JSON", "").replace("```", "").replace("\n", ""))


def _thoughts(said: str) -> tuple[str, int]:
    """The text with each thought written as ReAct, and their number."""
    written: list[str] = []
    at = 0
    # Found, not matched by a pattern, which would try every place of a long text anew.
    while (start := said.find(THINK_MARK, at)) != -1 and (end := said.find(THINK_END, start)) != -1:
        written.append(_thought(said[at:start], said[start + len(THINK_MARK) : end]))
        at = end + len(THINK_END)
    return "".join(written) + said[at:], len(written)


def _thought(before: str, call: str) -> str:
    called = _bare(call)
    thought = f"Thought:{before.strip()}\n" if before.strip() else ""
    return f"{thought}Action:{called['api_name']}\nAction Input:{called['parameters']}\n"


def _executed(match: re.Match[str]) -> str:
    answer = f"{FINAL}{match[4].strip()}\n" if match[4].strip() else ""
    return f"Response:{_bare(match[2])}\n{answer}"
