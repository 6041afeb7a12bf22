"""One shape for the many in which pages and programs send a conversation."""

from __future__ import annotations

IMAGE = "\ufffc"  # stands in a message's text where a picture is shown


def message_of(role: str, content: object) -> dict:
    """{"role", "content", "images"} of a content in any shape, its pictures before its text.

    A text; {"text", "files"}; {"path"} or {"file": {"path"}}; {"type": "text", "text"}; a list or tuple of these.
    """
    texts, images = [], []
    _gather(content, texts, images)
    text = "\n".join(text for text in texts if text).replace(IMAGE, "").replace("\x00", "")
    text = text.encode("utf-8", "replace").decode("utf-8")
    return {"role": role, "content": (IMAGE + "\n") * len(images) + text, "images": images}


def _gather(content: object, texts: list, images: list) -> None:
    if isinstance(content, str):
        texts.append(content)
    elif isinstance(content, (list, tuple)):
        for part in content:
            _gather(part, texts, images)
    elif isinstance(content, dict):
        for file in [content.get("file"), *(content.get("files") or [])]:
            _gather_file(file, images)
        if content.get("path"):
            _gather_file(content, images)
        if isinstance(content.get("text"), str):
            texts.append(content["text"])


def _gather_file(file: object, images: list) -> None:
    path = file.get("path") if isinstance(file, dict) else file
    if isinstance(path, str) and path:
        images.append(path)


def messages_of(history: object) -> list:
    """The answered turns of a history: messages with roles, or pairs of what was asked and answered."""
    flat = []
    for turn in history or []:
        if isinstance(turn, dict) and turn.get("role") in ("user", "assistant"):
            flat.append(message_of(turn["role"], turn.get("content")))
        elif isinstance(turn, (list, tuple)) and len(turn) == 2:
            asked, answered = turn
            if isinstance(asked, tuple):  # gradio 4 shows a file as a tuple of its path
                flat.append(message_of("user", [{"path": path} for path in asked if path]))
            elif asked is not None:
                flat.append(message_of("user", asked))
            if answered is not None:
                flat.append(message_of("assistant", answered))
    return _answered(flat)


def _answered(flat: list) -> list:
    """Turns that have an answer; what was asked in several messages is one."""
    turns, asked = [], []
    for message in flat:
        if message["role"] == "user":
            asked.append(message)
            continue
        if asked and message["content"]:
            whole = {"role": "user", "content": "", "images": []}
            for one in asked:
                whole["images"] += one["images"]
            said = "\n".join(text for text in (one["content"].replace(IMAGE, "").strip("\n") for one in asked) if text)
            whole["content"] = (IMAGE + "\n") * len(whole["images"]) + said
            turns += [asked[0] if len(asked) == 1 else whole, message]
        asked = []
    return turns
