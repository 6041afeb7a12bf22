"""A model's context: the tokens that it was made for, of prompt and answer together."""

from __future__ import annotations

from ftx.errors import RecipeError


class TooLong(RecipeError):
    """A conversation that leaves no room for an answer in the model's context."""


def refuse_too_long(tokens: int, context: int) -> None:
    """Raise TooLong for a prompt of so many `tokens` where the model's `context` holds no more."""
    if tokens >= context:
        raise TooLong(
            f"the conversation has {tokens:,} tokens and the model's context {context:,}, of which the answer needs "
            "some; shorten it, or begin anew"
        )
