"""The forms that one model takes, and how each of them is asked: folders here, other engines over HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import mimetypes
import os
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.adapters import attached
from ftx.checkpoint_files import read_json
from ftx.context import TooLong, refuse_too_long
from ftx.contracts import ImageProcessor, ModelFamily
from ftx.data.conversation import IMAGE, Message, RowError
from ftx.data.images import look_at
from ftx.data.template import Template
from ftx.data.tokens import Tokenizer
from ftx.errors import HubError, ModelError, RecipeError
from ftx.export.probes import PICTURE, Probe, drawn, own_probes
from ftx.export.quantised import hold_as_seen
from ftx.plan import chosen_template, generation_eos

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

WAIT = 600  # seconds for one answer of a server
ENOUGH = 0.9  # share of the free memory that a model may take
KEPT = 32  # places of a prompt whose logits are compared


@dataclass(frozen=True)
class Said:
    """What a form made of a probe. What it does not tell is None.

    `prompt`: token ids; `logits`: float32 [up to KEPT, words] at the prompt's end; `ids`: of the greedy answer, its end
    included; `steps`: float32 [tokens of the answer, words], what each of them was chosen by; `length`: tokens of the
    prompt, from what does not tell them.
    """

    text: str | None = None
    stopped: bool = False
    prompt: list[int] | None = None
    logits: torch.Tensor | None = None
    ids: list[int] | None = None
    steps: torch.Tensor | None = None
    length: int | None = None


class Form(ABC):
    """One form of a model. `name` is what people read of it."""

    name: str

    @abstractmethod
    def say(self, probe: Probe, max_new_tokens: int) -> Said:
        """Ask it, greedily. Raises FtxError."""


@dataclass
class Loaded(Form):
    """A model in this process, with what stands in its folder: nothing but the files decides how it is asked.

    `stops` are the ids that engines stop at: those of generation_config.json, or the tokenizer's own end without it.
    """

    name: str
    model: PreTrainedModel
    tokenizer: Tokenizer
    template: Template
    stops: set[int]
    images: ImageProcessor | None
    max_positions: int
    places: Path  # a folder for the drawn picture

    def say(self, probe: Probe, max_new_tokens: int) -> Said:
        prompt, inputs = self._asked(probe)
        logits = self._logits(prompt, inputs)
        ids, steps = self._greedy(prompt, inputs, max_new_tokens)
        stopped = bool(ids) and ids[-1] in self.stops
        text = self.tokenizer.decode(ids[:-1] if stopped else ids)
        return Said(text, stopped, prompt[0].tolist(), logits, ids, steps)

    def read(self, probe: Probe) -> tuple[list[int], torch.Tensor]:
        """The prompt's ids and the logits at its end, as `Said` has them, without an answer."""
        prompt, inputs = self._asked(probe)
        return prompt[0].tolist(), self._logits(prompt, inputs)

    def own_probes(self) -> list[Probe]:
        """ftx's own that the template takes: not every one has a place for a system message."""
        return [probe for probe in own_probes(sees=self.images is not None) if self._takes(probe)]

    def _takes(self, probe: Probe) -> bool:
        try:
            self._asked(probe)
        except RecipeError:
            return False
        return True

    def _asked(self, probe: Probe) -> tuple[torch.Tensor, dict[str, Any]]:
        """The probe's ids, and what else the model takes. Raises RecipeError for what it or its template cannot."""
        try:
            prompt, inputs = self._inputs(self._messages(probe))
            refuse_too_long(prompt.shape[1], self.max_positions)
        except RowError as error:
            raise RecipeError(f"--probes: {error.reason}; {error.remedy}") from None
        except TooLong as error:
            raise RecipeError(f"--probes: {error}") from None
        return prompt, inputs

    def _logits(self, prompt: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            logits: torch.Tensor = self.model(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), **inputs
            ).logits[0, -KEPT:]
        return logits.float().cpu()

    def _messages(self, probe: Probe) -> list[Message]:
        head = [Message("system", probe.system)] if probe.system else []
        roles = ("user", "assistant")
        turns = [Message(roles[i % 2], text) for i, text in enumerate(probe.turns)]  # type: ignore[arg-type]
        if probe.image is None:
            return [*head, *turns]
        path = drawn_file(self.places) if probe.image == PICTURE else Path(probe.image)
        if self.images is None:
            raise RecipeError(f"--probes: image {path}: {self.name} reads text alone")
        picture = look_at(path.parent, path.name)
        first = Message("user", f"{IMAGE}\n{turns[0].content}", images=(str(path),), pictures=(picture,))
        return [*head, first, *turns[1:]]

    def _inputs(self, messages: Sequence[Message]) -> tuple[torch.Tensor, dict[str, Any]]:
        import torch

        from ftx.data.images import open_picture

        pictures = [picture for message in messages for picture in message.pictures]
        device = self.model.device
        if not pictures or self.images is None:
            return torch.tensor([self.template.prompt(messages, self.tokenizer)], device=device), {}
        places = self.images.lay_out([(picture.width, picture.height) for picture in pictures])
        pixels = self.images.pixels([[open_picture(picture) for picture in pictures]]).to(device)
        ids = self.template.prompt(messages, self.tokenizer, places)
        return torch.tensor([ids], device=device), {"pixel_values": pixels}

    def _greedy(
        self, prompt: torch.Tensor, inputs: dict[str, Any], max_new_tokens: int
    ) -> tuple[list[int], torch.Tensor]:
        import torch
        from transformers import GenerationConfig

        config = GenerationConfig(
            max_new_tokens=min(max_new_tokens, self.max_positions - prompt.shape[1]),
            do_sample=False,
            eos_token_id=sorted(self.stops) or None,
            pad_token_id=self.tokenizer.pad_id,
            return_dict_in_generate=True,
            output_logits=True,
        )
        with torch.inference_mode():
            out: Any = self.model.generate(
                prompt, attention_mask=torch.ones_like(prompt), generation_config=config, **inputs
            )
        found: list[int] = out.sequences[0, prompt.shape[1] :].tolist()
        return found, torch.cat(out.logits).float().cpu()


def load(
    name: str, family: ModelFamily, folder: Path, places: Path, adapter: Path | None = None, quantization: Any = None
) -> Loaded:
    """The model of `folder`, with an adapter on it if one is given, in float32 where it fits. Raises ModelError.

    With `quantization` its weights are the ones that training saw, rounded to few bits and back.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if saved_rounded(folder):
        model = _load_rounded(folder, device)
        context = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048)
    else:
        context = family.inspect(folder).max_positions
        dtype = _precision(family, folder, device)
        model = family.load(folder, dtype=dtype, device=device, attention="sdpa")
        if quantization is not None:
            hold_as_seen(model, family, folder, quantization)
    if adapter is not None:
        model = attached(model, adapter).eval()
    source = adapter or folder
    tokenizer = family.tokenizer(folder)
    template = chosen_template(source, "auto", tokenizer, family, folder)
    stops = generation_eos(source) or tokenizer.eos_ids
    return Loaded(name, model, tokenizer, template, set(stops), family.image_processor(folder), context, places)


def saved_rounded(folder: Path) -> bool:
    """Whether a model's weights are stored in 4 or 8 bits, as bitsandbytes, AWQ or GPTQ write them."""
    return "quantization_config" in read_json(folder / "config.json")


def _load_rounded(folder: Path, device: str) -> PreTrainedModel:
    """A model that transformers itself reads: a family's own loading starts from whole weights."""
    from transformers import AutoModelForCausalLM

    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, device_map={"": device}, trust_remote_code=False, use_safetensors=True, local_files_only=True
        )
    except (ValueError, OSError, ImportError) as error:
        raise ModelError(
            f"{folder} is quantised in a way that cannot be read here: {str(error).splitlines()[0]}"
        ) from None
    return model.eval()


def _precision(family: ModelFamily, folder: Path, device: str) -> torch.dtype:
    """float32, or the weights' own where it would not fit: only rounding shall differ between forms."""
    import torch

    facts = family.inspect(folder)
    free = (
        torch.cuda.mem_get_info()[0] if device == "cuda" else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    )
    if 4 * facts.parameters < ENOUGH * free:
        return torch.float32
    return getattr(torch, facts.dtype) if facts.dtype in ("float16", "bfloat16") else torch.float32


def drawn_file(folder: Path) -> Path:
    """The drawn picture as a file of `folder`."""
    path = folder / f"{PICTURE}.png"
    if not path.exists():
        drawn().save(path)
    return path


@dataclass
class Recorded(Form):
    """What was written down of a model that is gone: prompts and logits by probe."""

    name: str
    said: dict[str, Said]

    def say(self, probe: Probe, max_new_tokens: int) -> Said:
        return self.said.get(probe.key, Said())


@dataclass
class Endpoint(Form):
    """A server that speaks OpenAI's chat completions, at `url`, http or https (".../v1"), with an API `key` or none."""

    name: str
    url: str
    places: Path
    key: str | None = None
    model: str | None = None

    def say(self, probe: Probe, max_new_tokens: int) -> Said:
        try:
            return self._said(self.url.rstrip("/"), probe, max_new_tokens)
        except (KeyError, IndexError, TypeError):
            raise HubError(f"{self.url} answers otherwise than OpenAI's chat completions do; is it .../v1?") from None

    def _said(self, url: str, probe: Probe, max_new_tokens: int) -> Said:
        if self.model is None:
            self.model = str(self._call("GET", f"{url}/models")["data"][0]["id"])
        asked = {"model": self.model, "messages": self._messages(probe)}
        prompt = self._prompt(asked) if probe.image is None else None
        body = {**asked, "temperature": 0, "max_tokens": max_new_tokens}
        answer = self._call("POST", f"{url}/chat/completions", body)
        choice = answer["choices"][0]
        counted = (answer.get("usage") or {}).get("prompt_tokens") if probe.image is None else None
        stopped = choice["finish_reason"] == "stop"
        return Said(choice["message"]["content"] or "", stopped, prompt, length=counted)

    def _prompt(self, asked: dict[str, Any]) -> list[int] | None:
        """The prompt's ids from a server that tells them, as vLLM and ftx do; None from another."""
        try:
            found = self._call("POST", self.url.rstrip("/").removesuffix("/v1") + "/tokenize", asked)
        except HubError:
            return None
        ids = found.get("tokens") if isinstance(found, dict) else None
        return ids if isinstance(ids, list) and all(isinstance(i, int) for i in ids) else None

    def _messages(self, probe: Probe) -> list[dict[str, Any]]:
        head = [{"role": "system", "content": probe.system}] if probe.system else []
        turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(probe.turns)]
        if probe.image is not None:
            path = drawn_file(self.places) if probe.image == PICTURE else Path(probe.image)
            kind = mimetypes.guess_type(path.name)[0] or "image/png"
            data = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
            shown = {"type": "image_url", "image_url": {"url": data}}
            turns[0]["content"] = [shown, {"type": "text", "text": probe.turns[0]}]  # type: ignore[assignment]
        return [*head, *turns]

    def _call(self, method: str, url: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=WAIT) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read(500).decode("utf-8", "replace")
            raise HubError(f"{url} refuses: {error.code} {said}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise HubError(f"{url} does not answer: {error}") from None
