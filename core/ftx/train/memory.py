"""How much device memory a step takes, before it is taken; and the fastest way that fits what there is.

Counted are weights, what is trained with its gradients and moments, the activations that the backward pass needs, and
the largest of what comes and goes. Activations are those of ftx's own path for decoders of Llama's kind: for each token
and layer two residuals, two norms, attention's output, queries, keys and values, gate and up.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from ftx.errors import RecipeError
from ftx.fast.groups import TOGETHER, WIDEST

if TYPE_CHECKING:
    from ftx.contracts import ModelFamily, TrainMethod
    from ftx.plan import Plan

Mode = Literal["fast", "balanced", "small"]
MODES: tuple[Mode, ...] = ("fast", "balanced", "small")
GIB = 1 << 30
HEAD_TOKENS: dict[Mode, int] = {"fast": 1024, "balanced": 512, "small": 512}  # that meet the head at a time
# Bytes a weight by the bits that hold it: nf4 with its constants quantised too (arXiv 2305.14314), and LLM.int8 with a
# float32 for each of its rows, here of 2,048 (arXiv 2208.07339).
QUANTISED = {4: 0.516, 8: 1.002}
NEAR = 0.05  # of a model's parameters: norms and biases are not counted
FREE = 0.92  # of what a GPU has free: allocators and libraries need some
# Whose activations and head are those that are counted here.
COUNTED = {f"{kind}ForCausalLM" for kind in ("InternLM2", "Llama", "Mistral", "Qwen2", "Qwen3")}
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\..*?(\w+)\.(weight|bias)$")


@dataclass(frozen=True)
class Decoder:
    """Sizes of a decoder of Llama's kind: its matrices by leaf name, [out, in] each, and its vocabulary.

    `biased`: leaf names of the layers that have a bias, which fp8 leaves as they are.
    """

    layers: int
    matrices: dict[str, tuple[int, int]]
    words: int
    tied: bool
    biased: frozenset[str] = frozenset()

    @property
    def width(self) -> int:
        return self.matrices["gate_proj"][1]

    @property
    def inner(self) -> int:
        return self.matrices["gate_proj"][0]

    @property
    def in_layers(self) -> int:
        return self.layers * sum(out * into for out, into in self.matrices.values())

    @property
    def embedding(self) -> int:
        return self.words * self.width


def decoder_of(plan: Plan) -> Decoder | None:
    """The sizes of a plan's model, read off its checkpoint; None for another kind, or one with pictures."""
    if plan.images is not None:
        return None
    layout = plan.family.layout(plan.base)
    matrices: dict[str, tuple[int, int]] = {}
    biased = set()
    deepest = -1
    heads = False
    for stored, info in plan.family.checkpoint(plan.base).tensors.items():
        names = layout.native_names(stored)
        heads = heads or any(name.startswith("lm_head") for name in names)
        for name in names:
            if (found := LAYER.search(name)) and found[3] == "bias":
                biased.add(found[2])
            elif found and len(info.shape) == 2:
                deepest = max(deepest, int(found[1]))
                # Of a fused tensor each part counts an equal share of the rows: only their sum matters.
                matrices[found[2]] = (info.shape[0] // len(names), info.shape[1])
    if not {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"} <= matrices.keys():
        return None
    made = Decoder(deepest + 1, matrices, plan.facts.vocab_size, not heads, frozenset(biased))
    counted = made.in_layers + made.embedding * (1 if made.tied else 2)
    # Experts, or layers of several sizes, are another kind.
    return made if abs(counted - plan.facts.parameters) <= NEAR * plan.facts.parameters else None


def told(plan: Plan) -> bool:
    """Whether what a step of the plan takes is counted here; of what else has a decoder it is the least."""
    train = plan.recipe.train
    own = train.attention == "auto" and train.adapters != "plain"
    head = "lm_head" in (getattr(plan.method, "targets", None) or ())  # whose logits then exist whole
    return plan.decoder is not None and plan.facts.architecture in COUNTED and own and not head


@dataclass(frozen=True)
class Memory:
    """A way to spend memory, and the bytes it is expected to take, by what takes them.

    `share` of the layers, counted from the first, make their activations again.
    """

    mode: Mode = "fast"
    share: float = 0.0
    bytes: dict[str, float] = field(default_factory=dict)

    @property
    def gib(self) -> float | None:
        """GiB expected at the peak; None where that was not counted."""
        return sum(self.bytes.values()) / GIB if self.bytes else None


def expected(plan: Plan, decoder: Decoder, mode: Mode, share: float | None = None) -> Memory:
    """What a step of the plan takes on a GPU when memory is spent that way."""
    share = (0.0 if mode == "fast" else 1.0) if share is None else share
    tokens = plan.micro_batch_size * _row(plan)
    width, inner, layers, number = decoder.width, decoder.inner, decoder.layers, _number(plan)
    through = sum(decoder.matrices[leaf][0] for leaf in ("q_proj", "k_proj", "v_proj"))
    if number == 4:  # attention in 32 bits has each query's own keys and values
        through = 3 * decoder.matrices["q_proj"][0]
    kept_columns, behind = _columns(plan, decoder)
    of_layer = tokens * (5 * width + through + 2 * inner + kept_columns) * number
    again = min(round(share * layers), layers - 1)
    inputs = 2 if mode != "fast" else again  # of layers made again: on the device, or there in passing
    # Those that are kept are the last, and gone when the first is made again.
    kept = (layers - again) * of_layer + inputs * tokens * width * number
    logits = HEAD_TOKENS[mode] * decoder.words * number
    largest = max(out * into for out, into in decoder.matrices.values())
    passing = (tokens * (inner + 4 * width) + largest) * number
    return Memory(
        mode,
        share,
        {
            "weights": _weights(plan, decoder, mode) + layers * behind,
            "trained": _trained(plan, decoder, mode),
            "activations": kept,
            "passing": passing + logits,
        },
    )


def _columns(plan: Plan, decoder: Decoder) -> tuple[int, int]:
    """Where adapters stand behind 8-bit weights: a layer's numbers kept of a token, and its bytes that stand there."""
    rank, targets = getattr(plan.method, "rank", 0), getattr(plan.method, "targets", None)
    if plan.recipe.train.base != "fp8" or float(getattr(plan.method, "dropout", 0)) > 0:
        return 0, 0
    kept = behind = 0
    for group in (*TOGETHER, ("o_proj",), ("down_proj",)):
        adapted = [leaf for leaf in group if leaf in decoder.matrices and (targets is None or leaf in targets)]
        columns = rank * len(adapted)
        if 0 < columns <= WIDEST and decoder.biased.isdisjoint(group):
            kept += columns if group != ("down_proj",) else 0
            behind += columns * (sum(decoder.matrices[leaf][0] for leaf in group) + decoder.matrices[group[0]][1])
    return kept, behind


def _row(plan: Plan) -> int:
    """Tokens of a row at most."""
    data = plan.recipe.data
    alone = data.packing == "none" and not plan.feed.endless
    return min(data.max_length, plan.ledger.longest or data.max_length) if alone else data.max_length


def _number(plan: Plan) -> int:
    """Bytes of a number in products and of a frozen weight."""
    return 4 if plan.recipe.train.dtype == "float32" else 2


def _weights(plan: Plan, decoder: Decoder, mode: Mode) -> float:
    """Of frozen weights, as products take them or quantised.

    The embedding is in host memory when that is wanted and can be.
    """
    if plan.method.produces == "model":
        return 0.0
    number = _number(plan)
    rounded = QUANTISED.get(getattr(plan.method, "bits", 16), number)
    head: float = number
    words: float = number
    if getattr(plan.method, "quantize_head", False):
        head, words = rounded, QUANTISED[8]
    ends = head + (0 if decoder.tied or mode == "small" else words)
    return decoder.in_layers * rounded + decoder.embedding * ends


def _trained(plan: Plan, decoder: Decoder, mode: Mode) -> float:
    """Of trained parameters: 4 bytes each, 2 for a 16-bit copy, 8 or 2 for the moments, and 4 for gradients.

    Where all weights are trained gradients come as activations go, unless several micro-batches are summed.
    """
    moments = 2 if mode == "small" else 8
    copy = 2 if _number(plan) == 2 else 0
    if plan.method.produces == "model":
        weights = decoder.in_layers + decoder.embedding * (1 if decoder.tied else 2)
        summed = plan.recipe.train.global_batch_size > plan.micro_batch_size
        return weights * (4 + moments + (4 if summed else 0)) + decoder.in_layers * copy + decoder.embedding * 4
    return adapter_size(plan.method, plan.family, decoder) * (4 + 4 + moments + (0 if mode == "small" else copy))


def adapter_size(method: TrainMethod, family: ModelFamily, decoder: Decoder) -> int:
    """Parameters of the adapters that a method puts on a decoder."""
    rank, targets = getattr(method, "rank", 0), getattr(method, "targets", None)
    return decoder.layers * sum(
        rank * (out + into) for leaf, (out, into) in decoder.matrices.items() if targets is None or leaf in targets
    )


def chosen(plan: Plan, free: int | None) -> Memory:
    """The plan's way: the one asked for, or the fastest that is expected to fit.

    `free`: bytes free on the GPU that will be used, None without one. Raises RecipeError when a number of GiB is asked
    for that no way keeps to.
    """
    asked = plan.recipe.train.memory
    decoder = plan.decoder
    if isinstance(asked, str) and asked != "auto":
        counted = decoder if told(plan) else None
        return expected(plan, counted, asked) if counted else Memory(asked, 0.0 if asked == "fast" else 1.0)
    if not isinstance(asked, str) and not told(plan):
        raise RecipeError("train.memory: what this run takes cannot be told beforehand; name fast, balanced or small")
    if decoder is None:
        return Memory()
    limit = FREE * free if isinstance(asked, str) and free is not None else None
    limit = float(asked) * GIB if not isinstance(asked, str) else limit
    ways = list(_ways(plan, decoder))
    if isinstance(asked, str):
        # 8-bit moments change results: only who asks for little gets them.
        ways = [way for way in ways if way.mode != "small"]
    fitting = [way for way in ways if limit is None or sum(way.bytes.values()) <= limit]
    if fitting or isinstance(asked, str):
        way = fitting[0] if fitting else ways[-1]
        return way if told(plan) else Memory(way.mode, way.share)
    least = _up(ways[-1].gib or 0)
    raise RecipeError(f"train.memory: {asked} GiB do not hold a step; it takes {least} GiB at least")


def _up(gib: float) -> str:
    """The number in two digits, rounded up: what is asked for next must do."""
    unit = 10.0 ** (1 - math.floor(math.log10(gib)))
    return f"{math.ceil(gib * unit) / unit:g}"


def _ways(plan: Plan, decoder: Decoder) -> list[Memory]:
    """Ways from the fastest to the smallest: ever more layers made again, then their inputs in host memory."""
    shares = [expected(plan, decoder, "fast", step / 8) for step in range(9)]
    small = [expected(plan, decoder, "small")] if find_spec("bitsandbytes") else []
    return [*shares, expected(plan, decoder, "balanced"), *small]


def outlook(plan: Plan) -> dict[str, float]:
    """GiB that a step of the plan is expected to take on a GPU in each mode; empty where that cannot be told."""
    decoder = plan.decoder
    if decoder is None or not told(plan):
        return {}
    return {mode: round(expected(plan, decoder, mode).gib or 0, 2) for mode in MODES}
