"""Which template a run, a chat or a merge uses."""

from __future__ import annotations

from ftx.data.jinja import JinjaTemplate
from ftx.data.named import named_templates
from ftx.data.template import Template
from ftx.data.tokens import Tokenizer
from ftx.errors import RecipeError, did_you_mean


def choose_template(name: str, tokenizer: Tokenizer, fallback: str) -> Template:
    """The template called `name`; "auto" means the tokenizer's own, or else `fallback`.

    Raises RecipeError for an unknown name, or "tokenizer" where the tokenizer has none.
    """
    own = tokenizer.chat_template
    if name == "auto":
        name = "tokenizer" if own else fallback
    if name == "tokenizer":
        if not own:
            raise RecipeError("template: 'tokenizer' is asked for, but this tokenizer brings no chat template")
        return JinjaTemplate(own, tokenizer)
    check_template_name(name)
    return named_templates()[name]


def check_template_name(name: str) -> None:
    """Raise RecipeError when no template is called `name`."""
    known = [*named_templates(), "tokenizer", "auto"]
    if name not in known:
        raise RecipeError(f"template: '{name}' is not known; {did_you_mean(name, known)}")
