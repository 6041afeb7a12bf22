"""A conversation as the token ids that the model was trained on, by the chat template that travels with it.

What people type stays text: a special token's name in a message is read as ordinary characters.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

from history import IMAGE
from refused import Refused
from transformers import AutoTokenizer

# Marks from the private use area stand for messages while the template is rendered; the spaces around them are of a
# kind no template writes: where one is gone, the template strips its messages.
OPEN, CLOSE, GUARD = "\ue0f1", "\ue0f2", "\u2003"
MARK = re.compile(f"({GUARD}?){OPEN}(\\d+){CLOSE}({GUARD}?)")


class Prompts:
    """The tokenizer and template of a model folder."""

    def __init__(self, folder: Path) -> None:
        self.hf = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.template = (folder / "chat_template.jinja").read_text("utf-8")
        self._plain = copy.deepcopy(self.hf.backend_tokenizer)
        self._plain.encode_special_tokens = True
        self._plain.no_padding()
        self._plain.no_truncation()
        names = sorted((t.content for t in self.hf.added_tokens_decoder.values() if t.special), key=len, reverse=True)
        self._specials = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else re.compile("(?!)")

    def ids(self, messages: list, pictures: list) -> list:
        """The ids after which the answer begins. `pictures` are the ids of each picture, in order."""
        ids, run, waiting = [], "", iter(pictures)

        def flush(text: str) -> str:
            ids.extend(self._plain.encode(text, add_special_tokens=False).ids if text else [])
            return ""

        for kind, text in self._pieces(messages):
            if kind == "assistant":  # an answer begins on a token of its own, as it does when it is generated
                run = flush(run)
            parts = self._specials.split(text) if kind == "template" else text.split(IMAGE)
            for i, part in enumerate(parts):
                if kind == "template" and i % 2:
                    run = flush(run)
                    ids.append(self.hf.convert_tokens_to_ids(part))
                    continue
                if kind != "template" and i:
                    run = flush(run)
                    ids.extend(next(waiting))
                run += part
            if kind == "assistant":
                run = flush(run)
        flush(run)
        return ids

    def _pieces(self, messages: list) -> list:
        """("template" or a role, text) in order."""
        marked = [{"role": one["role"], "content": f"{GUARD}{OPEN}{i}{CLOSE}{GUARD}"} for i, one in enumerate(messages)]
        cut = MARK.split(self._rendered(marked))
        if [int(number) for number in cut[2::4]] != list(range(len(messages))):
            raise Refused("The model's chat template cannot express this conversation; clear it and ask again.")
        pieces = [("template", cut[0])]
        for i, message in enumerate(messages):
            left, _, right, own = cut[4 * i + 1 : 4 * i + 5]
            text = message["content"]
            text = text if left else text.lstrip()
            text = text if right else text.rstrip()
            pieces += [(message["role"], text), ("template", own)]
        return pieces

    def _rendered(self, marked: list) -> str:
        given = {"chat_template": self.template, "tokenize": False, "add_generation_prompt": True}
        text = self.hf.apply_chat_template(marked, **given)
        if OPEN in text:
            return text
        parts = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in marked]
        return self.hf.apply_chat_template(parts, **given)

    def text(self, ids: list) -> str:
        return self.hf.decode(list(ids))
