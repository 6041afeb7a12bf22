"""The model of this app: found, loaded where it fits, asked one question at a time. No code of a model is ever run."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from line import Line
from place import Place, count_numbers, gpu_free, has_four_bit, main_memory, places
from prompt import Prompts
from refused import CannotStart, Refused, why
from safetensors import SafetensorError
from settings import HERE
from transformers import AutoConfig, AutoModelForCausalLM

FRAME = 0.05  # seconds between two states of an answer: a page that draws more of them falls behind
LOOK = 0.5  # seconds that somebody waits in line without a look at the page
DAMAGED = (OSError, ValueError, KeyError, OverflowError, MemoryError, RuntimeError, SafetensorError, struct.error)
COLDEST = 0.01  # below this temperature sampling is greedy, but for numbers that overflow
HALF = "\ufffd"  # the mark of a character whose bytes are not all there yet


def model_folder(settings: dict) -> Path:
    """The folder with the model: this app's own, or one fetched from a hub at the revision that was named.

    Raises CannotStart.
    """
    repo, hub = settings["model_repo"], settings["model_hub"]
    if not repo:
        return HERE / settings["model_folder"]
    try:
        return _fetched(repo, settings["model_revision"], hub)
    except CannotStart:
        raise
    # Each hub's client fails in its own ways, and in those of the network library below it.
    except Exception as error:
        raise CannotStart(f"The model {repo} cannot be fetched from {hub}: {why(error, HERE)}") from error


def _fetched(repo: str, revision: str, hub: str) -> Path:
    if hub == "modelscope":
        from modelscope_hub import HubApi

        return Path(HubApi().download_repo(repo, repo_type="model", revision=revision))
    if hub == "openxlab":
        from fetch import fetched

        return fetched(repo, revision)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo, revision=revision))


class Model:
    """The loaded model. `note` says where it runs, when that is not as wished."""

    def __init__(self, folder: Path, settings: dict) -> None:
        """Raises CannotStart."""
        self.settings = settings
        self.stops = _stop_ids(folder)
        self.prompts = Prompts(folder)
        self.eyes = _eyes(folder, self.prompts)
        self.model, self.note = _loaded(folder, self.eyes is not None)
        config = self.model.config.get_text_config()
        self.length = int(getattr(config, "max_position_embeddings", 0) or 2048)
        self.line = Line()
        self.last = {}  # of the last answer its tokens, and why it ended: "stop", "length" or "left"

    @property
    def busy(self) -> bool:
        return len(self.line) > 0

    def ids(self, messages: list) -> tuple:
        """The prompt's ids and the pixels of its pictures, None without any. Raises Refused."""
        images = [path for message in messages for path in message.get("images", ())]
        if not images:
            return self.prompts.ids(messages, []), None
        if self.eyes is None:
            raise Refused("This model reads text alone; ask without a picture.")
        pictures, pixels = self.eyes.look(images)
        return self.prompts.ids(messages, pictures), pixels

    def check(self, question: str) -> None:
        """Raise Refused for a question that is empty or too long to be looked at."""
        most = int(self.settings["max_characters"])
        if len(question) > most:
            raise Refused(
                f"The question has {len(question):,} characters; this app takes up to {most:,}. Ask a shorter one."
            )
        if not question.strip():
            raise Refused("The question is empty; type one.")

    def conversation(self, asked: dict, history: list) -> list:
        """The messages to answer: the system's, as many turns of the history as fit, and the question. Raises Refused.

        Turns are dropped from the oldest on.
        """
        system = self.settings["system"]
        head = [{"role": "system", "content": system}] if system else []
        room = self.length - min(int(self.settings["max_new_tokens"]), self.length // 2)
        turns = list(history)
        while True:
            messages = [*head, *turns, asked]
            tokens = len(self.ids(messages)[0])
            if tokens <= room:
                return messages
            if not turns:
                raise Refused(f"The question has {tokens:,} tokens; the model takes up to {room:,}. Ask a shorter one.")
            turns = turns[2:]

    def answer(self, messages: list) -> Iterator[str]:
        """The answer so far, longer each time; "" while others are answered first. Raises Refused.

        Closing the iterator stops the model, or leaves the line.
        """
        with self.line.place() as ticket:
            while self.line.before(ticket, LOOK):
                yield ""  # so that the page can see whether somebody still waits
            try:
                yield from self._generated(*self.ids(messages))
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                raise Refused("The GPU's memory is too short for this conversation; clear it and ask again.") from None

    def _generated(self, ids: list, pixels: torch.Tensor | None) -> Iterator[str]:
        device = self.model.device
        given = {"input_ids": torch.tensor([ids], device=device)}
        if pixels is not None:
            given["pixel_values"] = pixels.to(device, self.model.dtype)
        new, shown, past, ended, drawn = [], "", None, "left", float("-inf")
        try:
            for _ in range(min(int(self.settings["max_new_tokens"]), self.length - len(ids))):
                with torch.inference_mode():
                    out = self.model(**given, past_key_values=past, use_cache=True, logits_to_keep=1)
                    token = self._chosen(out.logits[0, -1])
                past, given = out.past_key_values, {"input_ids": torch.tensor([[token]], device=device)}
                if token in self.stops:
                    ended = "stop"
                    break
                new.append(token)
                if time.monotonic() < drawn + FRAME:
                    continue
                text = self.prompts.text(new)
                if text != shown and not text.endswith(HALF):
                    shown, drawn = text, time.monotonic()
                    yield text
            else:
                ended = "length"
            text = self.prompts.text(new)
            if text != shown or not new:
                yield text
        finally:
            self.last = {"tokens": len(new), "ended": ended}

    def _chosen(self, logits: torch.Tensor) -> int:
        temperature, top_p = float(self.settings["temperature"]), float(self.settings["top_p"])
        if temperature < COLDEST:
            return int(logits.argmax())
        likely, order = torch.softmax(logits.float() / temperature, -1).sort(descending=True)
        likely[likely.cumsum(0) - likely >= top_p] = 0
        return int(order[torch.multinomial(likely, 1)])


def open_model(settings: dict) -> Model:
    """The app's model. Raises CannotStart."""
    folder = model_folder(settings)
    if not (folder / "config.json").is_file():
        raise CannotStart(f"There is no model in {folder.name}/: put the model's folder there, or make the app anew.")
    if not list(folder.glob("*.safetensors")):
        raise CannotStart(
            f"{folder.name}/ holds no weights (*.safetensors): fetch them, with git lfs pull if it is a clone."
        )
    for path in folder.glob("*.safetensors"):
        if path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
            raise CannotStart(f"{folder.name}/{path.name} is a git-lfs pointer, not the weights: run git lfs pull.")
    try:
        return Model(folder, settings)
    except DAMAGED as error:
        raise CannotStart(f"The model in {folder.name}/ cannot be loaded: {why(error, folder)}") from error


def _stop_ids(folder: Path) -> set:
    path = folder / "generation_config.json"
    eos = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if not ids:
        raise CannotStart(
            f"{folder.name}/generation_config.json names no eos_token_id: without a stop token answers would never end."
        )
    return set(ids)


def _eyes(folder: Path, prompts: Prompts) -> object:
    """How the model sees pictures, None when it reads text alone or this app shows none."""
    if not (HERE / "eyes.py").is_file():
        return None
    from eyes import Eyes

    return Eyes(folder, prompts)


def _loaded(folder: Path, sees: bool) -> tuple:
    """The model at the best place that has room for it, and the note that says which that is."""
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    if hasattr(config, "vision_config"):
        from transformers import AutoModelForImageTextToText

        kind = AutoModelForImageTextToText
    else:
        kind = AutoModelForCausalLM
    numbers = count_numbers(folder)
    tried = places(numbers, gpu_free(), has_four_bit())
    for i, place in enumerate(tried):
        try:
            return _load_at(place, kind, folder, numbers)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            if i + 1 == len(tried):
                raise
    raise AssertionError("the processor is always tried")


def _load_at(place: Place, kind: type, folder: Path, numbers: int) -> tuple:
    given, note = {"local_files_only": True, "attn_implementation": "sdpa"}, place.note
    if place.way == "cpu":
        exact = main_memory() >= numbers * 4 * 1.1
        given["dtype"] = torch.float32 if exact else torch.bfloat16
        note += "" if exact else " Main memory is short: it computes in 16 bit, a little less exact."
    else:
        given.update(dtype=torch.bfloat16, device_map="cuda")
    if place.way == "gpu-4bit":
        from transformers import BitsAndBytesConfig

        given["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    return kind.from_pretrained(str(folder), **given).eval(), note.strip()
