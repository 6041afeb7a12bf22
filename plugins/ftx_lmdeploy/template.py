"""LMDeploy's chat-template JSON for a trained template, where that JSON can say it."""

from __future__ import annotations

from typing import Any

from ftx.errors import ModelError
from ftx.export.frames import Frames


def chat_template(frames: Frames, name: str, *, bos: bool) -> dict[str, Any]:
    """The JSON's values; with `bos`, BOS is written, for a tokenizer that adds none.

    A conversation without a system message gets one from LMDeploy, empty if `meta_instruction` is: so a template
    without a default system text cannot be said in this form. Raises ModelError.
    """
    if frames.system is None or frames.default_system is None:
        raise ModelError(
            "LMDeploy's template JSON writes a system message, if an empty one, where a conversation has none, and "
            "this template does not: serve with the folder's chat_template.jinja, as ftx lmdeploy serve does"
        )
    before, after = frames.system
    end = next((stop for stop in frames.stop if frames.after.startswith(stop)), "")
    return {
        "model_name": name,
        "system": (frames.bos if bos else "") + before,
        "meta_instruction": frames.default_system,
        "eosys": after,
        "user": frames.user[0],
        "eoh": frames.user[1],
        "assistant": "",
        "eoa": end,
        "separator": frames.after.removeprefix(end),
        "capability": "chat",
        "stop_words": list(frames.stop),
    }
