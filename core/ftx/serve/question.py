"""A request becomes the conversation that the model is shown: the same messages that `ftx chat` would make of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ftx.context import TooLong
from ftx.data.conversation import Conversation, Message, RowError
from ftx.errors import RecipeError
from ftx.reader import TAG, refuse_strange
from ftx.serve.pictures import save_pictures
from ftx.serve.protocol import ChatMessage, ChatRequest, ImagePart
from ftx.serve.refusal import Refusal
from ftx.talk import Sampling

if TYPE_CHECKING:
    from ftx.talk import Talk


@dataclass(frozen=True)
class Question:
    """All that an answer needs; `prompt` are the prompt's ids."""

    messages: list[Message]
    prompt: list[int]
    sampling: Sampling


def prepare(request: ChatRequest, talk: Talk, limit: int, folder: Path) -> Question:
    """The question of `request`, its pictures saved in `folder`. `limit` bounds an answer in tokens.

    Raises Refusal for what the model cannot be shown.
    """
    try:
        messages = list(_messages(request, talk, folder))
        _check_order(messages)
        prompt = talk.prompt(messages)
    except RowError as error:
        raise Refusal(400, f"messages: {error.reason}; {error.remedy}", param="messages") from None
    except TooLong as error:
        raise Refusal(400, str(error), code="context_length_exceeded", param="messages") from None
    except RecipeError as error:
        raise Refusal(400, f"messages: {error}", param="messages") from None
    return Question(messages, prompt, _sampling(request, min(limit, talk.max_positions - len(prompt))))


def _sampling(request: ChatRequest, room: int) -> Sampling:
    seed = secrets.randbits(32) if request.seed is None else request.seed
    wanted = request.wanted_tokens or room
    return Sampling(min(wanted, room), request.temperature, request.top_p, seed, tuple(request.stop))


def _messages(request: ChatRequest, talk: Talk, folder: Path) -> Iterator[Message]:
    parts = [part for message in request.messages for part in message.parts]
    urls = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
    if urls and talk.images is None:
        raise Refusal(400, "this model reads text alone; leave the pictures out", param="messages")
    pictures = iter(save_pictures(urls, folder))
    for message in request.messages:
        text, count = _text(message)
        refuse_strange(text)
        if message.role == "user":
            yield talk.question(text, [next(pictures) for _ in range(count)])
        elif count:
            raise Refusal(400, f"a {message.role} message shows a picture; the user's alone may", param="messages")
        else:
            yield Message("assistant" if message.role == "assistant" else "system", text)


def _text(message: ChatMessage) -> tuple[str, int]:
    """The text of a message and how many pictures it shows.

    Pictures stand in front of a single text, as in `ftx chat`, and where they are among several.
    """
    parts = message.parts
    count = sum(isinstance(part, ImagePart) for part in parts)
    among = len(parts) - count > 1
    said = [part.text if not isinstance(part, ImagePart) else TAG for part in parts]
    texts = [text for text, part in zip(said, parts, strict=True) if among or not isinstance(part, ImagePart)]
    return "\n".join(texts), count


def _check_order(messages: list[Message]) -> None:
    """Raise RowError where a conversation that the model answers next is not in order."""
    if messages[-1].role != "user":
        raise RowError("the last message is not the user's", "end with the question to answer")
    # A model may have answered with nothing, which its client sends back.
    said = [message if message.content else replace(message, content="-") for message in messages]
    Conversation.of([*said, Message("assistant", "-")])
