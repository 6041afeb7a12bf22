"""ftx's own row formats. Each recognises its rows by their keys, reads them as Conversations and can write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from ftx import Conversation, DataFormat, Message, RowError
from ftx.data.conversation import IMAGE, Role
from ftx_sources.fields import flag, has, items, text

OPENAI_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
    "pretrain": "text",
}
SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
SHAREGPT_NAMES = {"system": "system", "user": "human", "assistant": "gpt"}
IMAGE_TAGS = ("<image>", "<IMG_CONTEXT>")


class Messages(DataFormat):
    """OpenAI chat rows: {"messages": [{"role": "user", "content": "..."}, ...], "tools": [...]}."""

    name = "openai"

    def recognise(self, value: Any) -> str | None:
        return has(value, "messages")

    def parse(self, value: Any) -> Conversation:
        messages = [self._message(item) for item in items(value, "messages")]
        tools = items(value, "tools") if value.get("tools") else []
        return Conversation.of(messages, tools)

    def unparse(self, conversation: Conversation) -> Any:
        row: dict[str, Any] = {"messages": [self._written(m) for m in conversation.messages]}
        return {**row, "tools": list(conversation.tools)} if conversation.tools else row

    def _message(self, item: Any) -> Message:
        role = text(item, "role")
        if role not in OPENAI_ROLES:
            raise RowError(f"role '{role:.40}' is not known", "use system, user, assistant or tool")
        calls = items(item, "tool_calls") if item.get("tool_calls") else []
        if calls and role != "assistant":
            raise RowError(f"a {role} message calls a tool", "only the assistant calls tools")
        content, images = self._content(item, bool(calls))
        return Message(OPENAI_ROLES[role], content, flag(item, "loss"), tuple(images), tuple(calls))

    def _content(self, item: dict[str, Any], calls: bool) -> tuple[str, list[str]]:
        content = item.get("content")
        if isinstance(content, list):
            return _parts(content)
        return ("" if calls and content is None else text(item, "content")), []

    def _written(self, message: Message) -> dict[str, Any]:
        role = "pretrain" if message.role == "text" else message.role
        row: dict[str, Any] = {"role": role, "content": message.content}
        if message.images:
            row["content"] = list(_as_parts(message))
        if message.tool_calls:
            row["tool_calls"] = list(message.tool_calls)
        return row if message.loss else {**row, "loss": False}


def _parts(content: list[Any]) -> tuple[str, list[str]]:
    """Content in parts; an image stands where its part does, or at the tag that the text has for it."""
    said, images = "", list[str]()
    for part in content:
        kind = text(part, "type")
        if kind == "text":
            said += text(part, "text")
        elif kind in ("image_url", "image"):
            where = part.get(kind)
            images.append(text(where, "url") if isinstance(where, dict) else text(part, kind))
            said += IMAGE
        else:
            raise RowError(f"a part of type '{kind:.40}' is not known", "use text and image_url")
    tagged = said.count(IMAGE_TAGS[1])
    if images and tagged == len(images):
        said = said.replace(IMAGE, "").replace(IMAGE_TAGS[1], IMAGE)
    return said, images


def _as_parts(message: Message) -> Iterator[dict[str, Any]]:
    for i, said in enumerate(message.content.split(IMAGE)):
        if i:
            yield {"type": "image_url", "image_url": {"url": message.images[i - 1]}}
        if said:
            yield {"type": "text", "text": said}


class XTunerConversation(DataFormat):
    """XTuner rows: {"conversation": [{"system": "...", "input": "...", "output": "..."}, ...]}."""

    name = "xtuner"

    def recognise(self, value: Any) -> str | None:
        return has(value, "conversation")

    def parse(self, value: Any) -> Conversation:
        turns = items(value, "conversation")
        first = turns[0] if len(turns) == 1 and isinstance(turns[0], dict) else {}
        if first.get("input") == "" and not first.get("system"):
            return Conversation.of([Message("text", text(first, "output"), ends=flag(first, "need_eos_token"))])
        messages = [message for turn in turns for message in self._messages(turn)]
        return Conversation.of(messages, many_systems=True)

    def _messages(self, turn: Any) -> Iterator[Message]:
        question = Message("user", text(turn, "input"))
        if turn.get("system"):
            yield Message("system", text(turn, "system"))
        yield question
        yield Message("assistant", text(turn, "output"), flag(turn, "output_with_loss"))

    def unparse(self, conversation: Conversation) -> Any:
        if conversation.messages[0].role == "text":
            return {"conversation": [{"input": "", "output": conversation.messages[0].content}]}
        turns: list[dict[str, Any]] = []
        turn: dict[str, Any] = {}
        for message in _plain(conversation, self.name):
            turn[{"system": "system", "user": "input", "assistant": "output"}[message.role]] = message.content
            if message.role == "assistant":
                turns.append(turn if message.loss else {**turn, "output_with_loss": False})
                turn = {}
        return {"conversation": turns}


class ShareGPT(DataFormat):
    """ShareGPT rows: {"conversations": [{"from": "human", "value": "..."}, ...], "system": "..."}."""

    name = "sharegpt"

    def recognise(self, value: Any) -> str | None:
        return has(value, "conversations")

    def parse(self, value: Any) -> Conversation:
        turns = items(value, "conversations")
        images = _images(value)
        messages = [self._message(turn, images) for turn in turns]
        if images:
            raise RowError(f"the row has {len(images)} images more than <image> marks", "give one <image> for each")
        if value.get("system"):
            messages.insert(0, Message("system", text(value, "system")))
        return Conversation.of(messages)

    def _message(self, item: Any, images: list[str]) -> Message:
        """A turn; it takes from `images` those that its marks stand for."""
        speaker = text(item, "from")
        if speaker not in SHAREGPT_ROLES:
            raise RowError(f"speaker '{speaker:.40}' is not known", f"use one of {', '.join(SHAREGPT_ROLES)}")
        role, said = SHAREGPT_ROLES[speaker], text(item, "value")
        marks = said.count(IMAGE_TAGS[0])
        if role != "user" or not (marks and (images or self.name == "llava")):
            return Message(role, said, flag(item, "loss"))
        if marks > len(images):
            raise RowError(f"a question has {marks} <image> marks and {len(images)} images are left", "add the images")
        shown = tuple(images[:marks])
        del images[:marks]
        return Message(role, said.replace(IMAGE_TAGS[0], IMAGE), images=shown)

    def unparse(self, conversation: Conversation) -> Any:
        turns = []
        for message in _plain(conversation, self.name, images=True):
            said = message.content.replace(IMAGE, IMAGE_TAGS[0]) if message.images else message.content
            turn = {"from": SHAREGPT_NAMES[message.role], "value": said}
            turns.append(turn if message.loss else {**turn, "loss": False})
        row: dict[str, Any] = {"conversations": turns}
        images = conversation.images
        return {**row, "image": images[0] if len(images) == 1 else list(images)} if images else row


class Llava(ShareGPT):
    """LLaVA and InternVL rows: {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>..."}, ...]}."""

    name = "llava"

    def recognise(self, value: Any) -> str | None:
        return has(value, "conversations", "image") or has(value, "conversations", "images")


def _images(value: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for key in ("image", "images"):
        given = value.get(key)
        for one in given if isinstance(given, list) else [given]:
            if one is not None and (not isinstance(one, str) or not one):
                raise RowError(f"'{key}' is no path", f"write '{key}' as the path of a picture")
            found += [one] if one else []
    return found


class Alpaca(DataFormat):
    """Alpaca rows: {"instruction": "...", "input": "...", "output": "...", "system": "..."}."""

    name = "alpaca"

    def recognise(self, value: Any) -> str | None:
        return has(value, "instruction", "output")

    def parse(self, value: Any) -> Conversation:
        question = text(value, "instruction")
        if value.get("input"):
            question = f"{question}\n{text(value, 'input')}"
        return _pair(value, question, text(value, "output"))

    def unparse(self, conversation: Conversation) -> Any:
        system, question, answer = _single(conversation, self.name)
        return {"instruction": question, "input": "", "output": answer, **system}


class InputOutput(DataFormat):
    """Plain pairs: {"input": "...", "output": "...", "system": "..."}, XTuner's default columns."""

    name = "input_output"
    question: ClassVar[str] = "input"
    answer: ClassVar[str] = "output"

    def recognise(self, value: Any) -> str | None:
        return has(value, self.question, self.answer)

    def parse(self, value: Any) -> Conversation:
        return _pair(value, text(value, self.question), text(value, self.answer))

    def unparse(self, conversation: Conversation) -> Any:
        system, question, answer = _single(conversation, self.name)
        return {self.question: question, self.answer: answer, **system}


class PromptCompletion(InputOutput):
    """Plain pairs: {"prompt": "...", "completion": "...", "system": "..."}."""

    name = "prompt_completion"
    question = "prompt"
    answer = "completion"


class PromptResponse(InputOutput):
    """Plain pairs: {"prompt": "...", "response": "...", "system": "..."}."""

    name = "prompt_response"
    question = "prompt"
    answer = "response"


class QuestionAnswer(InputOutput):
    """Plain pairs: {"question": "...", "answer": "...", "system": "..."}."""

    name = "question_answer"
    question = "question"
    answer = "answer"


def _pair(value: dict[str, Any], question: str, answer: str) -> Conversation:
    messages = [Message("user", question), Message("assistant", answer)]
    if value.get("system"):
        messages.insert(0, Message("system", text(value, "system")))
    return Conversation.of(messages)


def _plain(conversation: Conversation, name: str, *, images: bool = False) -> tuple[Message, ...]:
    """The messages, when a format without tools (and images) can hold them. Raises RowError."""
    messages = conversation.messages
    if conversation.tools or any(m.tool_calls or m.role in ("tool", "text") for m in messages):
        raise RowError(f"format {name} cannot hold tools or plain text", "convert to openai")
    if conversation.images and not images:
        raise RowError(f"format {name} cannot hold images", "convert to llava or openai")
    return messages


def _single(conversation: Conversation, name: str) -> tuple[dict[str, str], str, str]:
    """System text as a column, question and answer of a conversation of one turn. Raises RowError."""
    messages = _plain(conversation, name)
    system = {"system": messages[0].content} if messages[0].role == "system" else {}
    if len(messages) - len(system) != 2:
        raise RowError(f"format {name} holds one question and one answer", "convert to openai, sharegpt or xtuner")
    return system, messages[-2].content, messages[-1].content


class Text(DataFormat):
    """Plain text to go on pre-training with: {"text": "..."}; every token is learnt."""

    name = "text"

    def recognise(self, value: Any) -> str | None:
        return has(value, "text")

    def parse(self, value: Any) -> Conversation:
        return Conversation.of([Message("text", text(value, "text"))])

    def unparse(self, conversation: Conversation) -> Any:
        if conversation.messages[0].role != "text":
            raise RowError("format text holds no conversation", "convert to openai, sharegpt or xtuner")
        return {"text": conversation.messages[0].content}


class Preference(DataFormat):
    """Preference pairs, {"prompt": "...", "chosen": "...", "rejected": "..."}: known, and refused."""

    name = "preference"
    refusal = (
        "preference pairs are for methods that compare two answers, which ftx does not have; to train on the better "
        "answers alone, map them: --columns input=prompt,output=chosen"
    )

    def recognise(self, value: Any) -> str | None:
        return has(value, "chosen", "rejected")

    def parse(self, value: Any) -> Conversation:
        raise RowError("the row is a preference pair", "map its columns, as input=prompt,output=chosen")
