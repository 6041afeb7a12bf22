"""Asks the model of a run while it is trained: the same questions at the beginning, every so many steps, at the end.

Training goes on as if nothing had been asked, to the bit: random numbers, modes and the way of attention are put back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.data.conversation import RowError, refuse_strange_characters
from ftx.data.images import look_at
from ftx.errors import RecipeError
from ftx.few_bits import of_bitsandbytes

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from ftx.contracts import ImageProcessor
    from ftx.recipe import EvalRecipe
    from ftx.run import Run
    from ftx.talk import Talk
    from ftx.train.path import FastPath


def asking_problems(asked: EvalRecipe | None, images: ImageProcessor | None) -> Iterator[str]:
    """One sentence per question that cannot be asked."""
    if asked is None:
        return
    if asked.images and images is None:
        yield "eval.images: this model reads text alone; leave them out"
    for text in (*asked.questions, asked.system or ""):
        try:
            refuse_strange_characters(text)
        except RowError as error:
            yield f"eval.questions: {error.reason}; {error.remedy}"
    for name in asked.images:
        try:
            look_at(Path(name).parent, Path(name).name)
        except RowError as error:
            yield f"eval.images: {error.reason}; {error.remedy}"


class Asker:
    """The questions of a run's recipe. Only the main process asks; without questions nothing is ever done."""

    def __init__(self, run: Run, model: PreTrainedModel, path: FastPath, accelerator: Accelerator) -> None:
        """Raises RecipeError where the model, as it is held for this training, cannot answer."""
        self._run, self._model, self._path = run, accelerator.unwrap_model(model), path
        self._asked = run.plan.recipe.eval
        if self._asked is None:
            return
        if path.embedding is not None:
            raise RecipeError(
                "eval: train.memory small keeps words' vectors in host memory, from which a model cannot answer; "
                "take train.memory balanced, or leave eval out"
            )
        if accelerator.distributed_type.value not in ("NO", "MULTI_GPU", "MULTI_CPU"):
            raise RecipeError("eval: the model is spread over several processes and cannot answer in one; leave it out")

    def due(self, step: int) -> bool:
        """Whether something is to be asked after so many steps, by the main process: all say the same."""
        plan = self._run.plan
        if self._asked is None:
            return False
        return step % plan.ask_every == 0 or step == plan.steps

    def ask(self, step: int) -> float:
        """Ask everything and record the answers, when it is due; the seconds that took."""
        if self._asked is None or not self._run.main or not self.due(step):
            return 0.0
        began = time.monotonic()
        with self._path.beside(), as_in_chat(self._model, self._path):
            self._ask_all(self._asked, step)
        return time.monotonic() - began

    def _ask_all(self, asked: EvalRecipe, step: int) -> None:
        talk = self._talk(asked)
        for number, question in enumerate(asked.questions):
            self._record(talk, step, number, question)

    def _talk(self, asked: EvalRecipe) -> Talk:
        from ftx.talk import Talk

        plan = self._run.plan
        return Talk(
            model=self._model,
            tokenizer=plan.tokenizer,
            template=plan.template,
            stop_ids=plan.stop_ids,
            max_positions=plan.facts.max_positions,
            images=plan.images,
            system=asked.system,
        )

    def _record(self, talk: Talk, step: int, number: int, question: str) -> None:
        from ftx.talk import Sampling

        assert self._asked is not None
        image = self._asked.image_of(number)
        talk.reset()
        answer = talk.ask(question, Sampling(self._asked.max_new_tokens), images=[Path(image)] if image else [])
        shown = {"image": Path(image).name} if image else {}
        self._run.event(
            "sample",
            step=step,
            number=number,
            question=question,
            **shown,
            answer=answer.text,
            stopped=answer.stopped,
        )


@contextmanager
def as_in_chat(model: PreTrainedModel, path: FastPath) -> Iterator[None]:
    """The model out of training, with an attention that knows what was said before; all put back at the end."""
    import torch

    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    low = path.dtype != torch.float32
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.autocast(device.type, path.dtype, enabled=low),
        _attending(model, path),
    ):
        for module, _ in modes:
            module.training = module.training and of_bitsandbytes(module)
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


@contextmanager
def _attending(model: PreTrainedModel, path: FastPath) -> Iterator[None]:
    """Attention within bounds takes every row for a whole one, and so knows no answer's earlier words."""
    from ftx.fast import attention

    language: Any = model.get_decoder() if path.end_to_end else None
    if language is None:
        yield
        return
    language.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        language.set_attn_implementation(attention.NAME)
