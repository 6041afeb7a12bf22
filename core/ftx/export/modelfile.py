"""Ollama's Modelfile for a model: its trained template in Go's template language, its stop words, its context."""

from __future__ import annotations

from ftx.errors import ModelError
from ftx.export.frames import Frames
from ftx.export.opened import Whole

CONTEXT = 8192  # tokens at most unless asked for: the cache of a longer one fills small machines
QUOTES = '"""'


def modelfile(weights: str, frames: Frames, whole: Whole, num_ctx: int | None = None) -> str:
    """The Modelfile for the GGUF file `weights` beside it.

    llama.cpp puts BOS before a prompt itself where the tokenizer does, so the template leaves it out there. Raises
    ModelError for what a Modelfile cannot say.
    """
    lines = [f"FROM ./{weights}", f"TEMPLATE {_quoted(go_template(frames, begin=_begin(frames, whole)))}"]
    if frames.default_system is not None:
        lines.append(f"SYSTEM {_quoted(frames.default_system)}")
    lines += [f'PARAMETER stop "{_escaped(stop)}"' for stop in frames.stop]
    lines.append(f"PARAMETER num_ctx {num_ctx or min(whole.facts.max_positions, CONTEXT)}")
    return "\n".join(lines) + "\n"


def go_template(frames: Frames, begin: str = "") -> str:
    """The frames as an Ollama template over .Messages. A default system text is left to the Modelfile's SYSTEM."""
    roles = {"user": frames.user, "assistant": ("", frames.after)}
    if frames.system is not None:
        roles = {"system": frames.system, **roles}
    branches = [
        f'if eq .Role "{role}" }}}}{_literal(before)}{{{{ .Content }}}}{_literal(after)}'
        for role, (before, after) in roles.items()
    ]
    opening = "" if frames.default_system is not None else frames.opening
    if opening:
        raise ModelError("the template opens conversations with a text that is no system message; Ollama has no place")
    return f"{_literal(begin)}{{{{ range .Messages }}}}{{{{ {'{{ else '.join(branches)}{{{{ end }}}}{{{{ end }}}}"


def _begin(frames: Frames, whole: Whole) -> str:
    hf = whole.tokenizer.hf
    adds = bool(whole.tokenizer.bos) and list(hf("a")["input_ids"][:1]) == [hf.bos_token_id]
    if adds and not frames.bos:
        raise ModelError(
            f"{whole.folder} was trained without {whole.tokenizer.bos} before a conversation, and llama.cpp puts one "
            f"there for this tokenizer: answers would differ; set add_bos_token to false in tokenizer_config.json"
        )
    return "" if adds else frames.bos


def _literal(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _quoted(text: str) -> str:
    if QUOTES in text or text.endswith('"'):
        raise ModelError("the template holds quotation marks that a Modelfile cannot hold")
    return QUOTES + text + QUOTES
