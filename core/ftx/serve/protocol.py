"""What a client sends and gets: OpenAI's chat completions, as far as one local model can answer them.

Form: https://platform.openai.com/docs/api-reference/chat. Fields that would change the answer in a way this server
cannot are refused; those that change nothing are taken and ignored.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from ftx.errors import did_you_mean
from ftx.serve.refusal import Refusal
from ftx.talk import Answer

MAX_STOP_WORDS = 16
MAX_STOP_WORD = 256  # characters
# fields of OpenAI's of which this server knows but one value, the one that asks for nothing
ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


class _Sent(BaseModel):
    """Part of a request; what is null counts as left out."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value


class TextPart(_Sent):
    type: Literal["text"]
    text: str


class ImageUrl(_Sent):
    url: str
    detail: str = "auto"  # pictures are always seen as the model was trained to


class ImagePart(_Sent):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Part], Tag("parts")],
    Discriminator(lambda value: "parts" if isinstance(value, list) else "text"),
]


class ChatMessage(_Sent):
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_answered(cls, value: Any) -> Any:
        """An assistant's message may come back with the empty fields that OpenAI's own answers have."""
        if isinstance(value, dict) and value.get("role") == "assistant":
            return {key: one for key, one in value.items() if key == "content" or one != []}
        return value

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        """The content as parts, whatever form it came in."""
        return [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class StreamOptions(_Sent):
    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(_Sent):
    """`temperature` 0, which is also meant where it is left out, is greedy: the answer that `ftx chat` gives."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[list[str], Field(max_length=MAX_STOP_WORDS)] = []
    n: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    logit_bias: Any = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    modalities: Any = None
    # These change nothing here.
    parallel_tool_calls: Any = None
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _are_words(cls, value: list[str]) -> list[str]:
        if not all(0 < len(word) <= MAX_STOP_WORD for word in value):
            raise ValueError(f"stop words have 1 to {MAX_STOP_WORD} characters")
        return value

    @field_validator(*ASKS_FOR_NOTHING, mode="after")
    @classmethod
    def _asks_for_nothing(cls, value: Any, info: Any) -> Any:
        if value not in ASKS_FOR_NOTHING[info.field_name]:
            raise ValueError("this server cannot do it; leave it out")
        return value

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


def read_request(body: bytes) -> ChatRequest:
    """The request in `body`. Raises Refusal with one sentence about the first thing that is wrong."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> Refusal:
    first = error.errors(include_url=False, include_context=False)[0]
    where = _written(first["loc"])
    if first["type"] == "json_invalid":
        return Refusal(400, f"the body is no JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    if first["type"] == "missing":
        return Refusal(400, f"'{where}' is missing", param=where)
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = did_you_mean(key, ChatRequest.model_fields) if len(first["loc"]) == 1 else "leave it out"
        return Refusal(400, f"'{where}' is not known to this server; {known}", param=where)
    message = first["msg"].removeprefix("Value error, ")
    return Refusal(400, f"'{where}': {message[:1].lower()}{message[1:]}" if where else message, param=where or None)


def _written(location: tuple[int | str, ...]) -> str:
    """The place as the client wrote it: without the tags by which the kinds of content and of parts are told apart."""
    tags = (3, 5) if location[:1] == ("messages",) else ()
    return ".".join(str(step) for at, step in enumerate(location) if at not in tags)


class Reply:
    """One answer's frame: the same id and time in all that is sent of it."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, answer: Answer, prompt_tokens: int) -> dict[str, Any]:
        """The body of an answer that comes at once."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(answer)}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage(prompt_tokens, answer.tokens),
        }

    def piece(self, delta: dict[str, str], reason: str | None = None) -> bytes:
        """An event with some text, or with the reason why there is no more."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**self._head, "object": "chat.completion.chunk", "choices": [choice]})

    def usage(self, answer: Answer, prompt_tokens: int) -> bytes:
        """The event with what was used, which has no choice."""
        used = usage(prompt_tokens, answer.tokens)
        return event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": used})


def finish_reason(answer: Answer) -> str:
    return "stop" if answer.stopped else "length"


def usage(prompt: int, answer: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


DONE = b"data: [DONE]\n\n"


def event(value: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
