"""The ways a run's model is computed: what the recipe asks for, as far as the model and the device have it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from ftx.data.collate import on_device
from ftx.errors import RecipeError
from ftx.train.batches import Batches
from ftx.train.little import little
from ftx.train.loss import ends_in_head, loss_sum
from ftx.train.memory import HEAD_TOKENS, Memory

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from ftx.contracts import TrainMethod
    from ftx.fast.graph import Recordings
    from ftx.fast.products import Form
    from ftx.plan import Plan
    from ftx.recipe import Recipe

FEW = 1 << 29  # trained parameters up to which a recording pays


def path_problems(recipe: Recipe, method: TrainMethod) -> Iterator[str]:
    """One sentence per way to compute that cannot be had with this method or on this machine."""
    train = recipe.train
    if train.memory == "small" and find_spec("bitsandbytes") is None:
        yield "train.memory: 'small' needs bitsandbytes; install it with: pip install 'ftx[qlora]'"
    if train.device == "cpu" and not isinstance(train.memory, str):
        yield "train.memory: a number of GiB is kept to on a GPU, not beside train.device cpu; name fast or balanced"
    if train.base != "fp8":
        return
    if train.dtype == "float32" or train.device == "cpu":
        yield "train.base: fp8 stands beside bfloat16 on a GPU, not beside train.dtype float32 or train.device cpu"
    if method.name != "lora" or train.adapters not in ("auto", "split"):
        yield "train.base: fp8 goes with method lora, and with train.adapters auto or split"
    from ftx.fast.eight import can

    if not can():
        yield "train.base: fp8 needs a GPU that multiplies in it (Ada, Hopper or later), and there is none here"


def path_notes(recipe: Recipe, method: TrainMethod) -> Iterator[str]:
    """One sentence per choice that costs speed, or holds on a GPU alone."""
    if not isinstance(recipe.train.memory, str):
        import torch

        if not torch.cuda.is_available():
            yield "train.memory: the GiB are a GPU's, and torch finds none here"
    if getattr(method, "dropout", 0.0):
        yield (
            "method.dropout: what leaves out inputs is neither folded into weights nor recorded; on a GPU a step is "
            "the faster without"
        )


@dataclass
class FastPath:
    """`end_to_end`: samples stand without padding; `head_tokens`: as `loss_sum` has it; `taken`: modules by kind.

    With `recorded`, passes of a shape that comes again are recorded; `embedding`: the words' vectors, in host memory.
    """

    dtype: torch.dtype
    end_to_end: bool = False
    head_tokens: int | None = None
    taken: dict[str, int] = field(default_factory=dict)
    recorded: bool = False
    embedding: torch.Tensor | None = None
    memory: Memory = field(default_factory=Memory)
    _recordings: Recordings | None = None

    def gradients(self, model: PreTrainedModel, batch: dict[str, Any], accelerator: Accelerator) -> torch.Tensor:
        """Add the gradients of a batch's loss times its `share`, a float64; that product, detached, on the device."""
        if self.embedding is not None:
            words = self.embedding[batch["input_ids"]].pin_memory()
            batch = {name: value for name, value in batch.items() if name != "input_ids"} | {"inputs_embeds": words}
        if not self.recorded:
            loss = self._loss(model, on_device(batch, accelerator.device))
            accelerator.backward(loss)
            return loss.detach()
        if self._recordings is None:
            from ftx.fast.graph import Recordings

            trained = [p for p in model.parameters() if p.requires_grad]
            self._recordings = Recordings(trained, partial(self._loss, model))
        return self._recordings(batch)

    def beside(self) -> AbstractContextManager[None]:
        """Where something else is computed with the model, of which nothing stays on the device."""
        return self._recordings.beside() if self._recordings else nullcontext()

    def close(self) -> None:
        """Give back the memory of what was recorded."""
        self._recordings = None

    def as_dict(self) -> dict[str, Any]:
        """What a run's events say of it."""
        ways = {"end_to_end": self.end_to_end, "recorded": self.recorded, **self.taken}
        expected = self.memory.gib
        return {
            "memory": self.memory.mode,
            **({"expected_gpu_gib": round(expected, 2)} if expected else {}),
            "path": {name: value for name, value in ways.items() if value},
        }

    def forget_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """A recording adds to the very tensors that it was made with."""
        optimizer.zero_grad(set_to_none=not self.recorded)

    def _loss(self, model: PreTrainedModel, batch: dict[str, Any]) -> torch.Tensor:
        import torch

        rest = {name: value for name, value in batch.items() if name != "share"}
        with torch.autocast(batch["share"].device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss: torch.Tensor = loss_sum(model, rest, self.head_tokens) * batch["share"]
        return loss

    def batches(self, plan: Plan, accelerator: Accelerator, first: int) -> Batches:
        """The run's micro-batches as this path takes them."""
        return Batches(
            plan,
            accelerator.process_index,
            accelerator.num_processes,
            first,
            end_to_end=self.end_to_end,
            pinned=accelerator.device.type == "cuda",
            even=self.recorded,
        )


def speed_up(
    model: PreTrainedModel, plan: Plan, memory: Memory, dtype: torch.dtype, *, end_to_end: bool, alone: bool
) -> FastPath:
    """Put the fast path under a model that its method has prepared, in training mode; `alone`: in one process."""
    import torch

    from ftx.fast.install import install
    from ftx.fast.recompute import recompute

    train, tokens = plan.recipe.train, plan.micro_batch_size * plan.recipe.data.max_length
    on_gpu = next(model.parameters()).is_cuda
    form: Form | Literal["plain"] = train.adapters
    # What is held in few bits is made dense once for all that reads it: that pays at any size.
    if form == "auto" and getattr(plan.method, "bits", None) is None and little(model, plan):
        form = "plain"
    head_tokens = HEAD_TOKENS[memory.mode] if on_gpu and ends_in_head(model) else None
    eight = train.base == "fp8"
    if on_gpu and dtype != torch.float32:
        model.get_input_embeddings().register_forward_hook(lambda module, given, out: out.to(dtype))
    taken = install(model, dtype, form, eight_bits=eight, copied=memory.mode != "small") if form != "plain" else {}
    if eight and not taken.get("eight"):
        raise RecipeError("train.base: this model has no layer that fp8 can hold; leave it out")
    if memory.share:
        taken["again"] = recompute(model, memory.share, offload=memory.mode != "fast")
    embedding = _to_host(model) if memory.mode == "small" and on_gpu and alone else None
    recorded = alone and end_to_end and head_tokens is not None and _records(model, taken, dtype, tokens)
    return FastPath(dtype, end_to_end, head_tokens, taken, recorded, embedding, memory)


def _to_host(model: PreTrainedModel) -> torch.Tensor | None:
    """The embedding's weight, moved to host memory: a batch needs few of its rows. None where it must stay.

    It must where it is trained, shared with the head, scaled, or met by what fills in pictures.
    """
    import torch

    from ftx.fast.weight import dense, rounded_as
    from ftx.vision import SeesPictures

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    weight = embedding.weight
    seeing = any(isinstance(module, SeesPictures) for module in model.modules())
    plain, rounded = type(embedding) is torch.nn.Embedding, rounded_as(embedding) is not None
    if not (plain or rounded) or weight.requires_grad or weight is getattr(head, "weight", None) or seeing:
        return None
    weight.data = weight.data.cpu()
    if rounded:
        weight.CB, weight.SCB = weight.data, weight.SCB.cpu()
        return dense(embedding, embedding.dtype)[0]
    kept: torch.Tensor = weight.data
    return kept


def _records(model: PreTrainedModel, taken: dict[str, int], dtype: torch.dtype, tokens: int) -> bool:
    """Whether passes of `tokens` at most can be recorded: nothing in them may wait for the GPU or draw numbers.

    That is known of decoders whose layers are all of Llama's kind. It pays where gradients are few: they are added to
    tensors that stay, rather than handed over.
    """
    import torch
    from transformers.modeling_layers import GradientCheckpointingLayer

    from ftx.fast.recompute import PLAIN, draws
    from ftx.vision import SeesPictures

    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers = [type(module).__name__ for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    plain = taken.get("mlps") == len(layers) and set(layers) <= PLAIN and width <= 256 and width % 8 == 0
    few = sum(p.numel() for p in model.parameters() if p.requires_grad) < FEW
    if not (plain and few and dtype == torch.bfloat16) or draws(model):
        return False
    return not any(isinstance(one, SeesPictures) or _waits_for_lengths(one, tokens) for one in model.modules())


def _waits_for_lengths(module: torch.nn.Module, tokens: int) -> bool:
    """Whether a module is a rope that asks the GPU how long samples are."""
    from ftx.rope import looks_at_lengths

    if not looks_at_lengths(module):
        return False
    asks_beyond = getattr(module, "asks_beyond", None)
    return asks_beyond is None or tokens > asks_beyond
