"""Do all forms of one model read the same prompt, compute the same and stop at the same place?

Compared in this order, as each explains what comes after it: what the folders hold, prompt token ids, logits after the
prompt, greedy text, its end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.artifact import MANIFEST
from ftx.contracts import ImageProcessor, ModelFamily
from ftx.export.forms import Form, Loaded, Said
from ftx.export.probes import Probe
from ftx.export.receipt import Probed, Receipt, seal_of, write_receipt

if TYPE_CHECKING:
    from ftx.data.tokens import Tokenizer

# Share of the largest logit that rounding weights to their stored dtype may move a logit by. float32: accumulated
# rounding. 16 bit: 2^-9 and 2^-11 per weight, grown over the layers; a wrong merge moves logits by their whole scale.
TOLERANCE = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.1}
# The same for rounding to 4 or 8 bits. Measured: the quickstart's base in nf4 0.1; a wrong word table, 1.4.
ROUNDED = 0.5
SLACK = 0.01  # share of the largest logit by which two words are as good as each other, to an engine that rounds
# Words of every script and of none, so that another vocabulary shows.
SAMPLE = (
    "Tokenizers differ: 分词器不同。 été naïve 123,456 <|im_start|> \t "
    '{"a": [1, 2]} def f(x):\n  return x**2 😀 한국어 русский'
)


@dataclass(frozen=True)
class Trained:
    """The reference: what the model as training left it said to the probes, and what that depends on.

    `stops`: ids that end an answer; `rows`: of its vocabulary; `tolerance`: the share of the largest logit by which
    another form's may differ, and by which two words may be apart for either to be chosen.
    """

    name: str
    tokenizer: Tokenizer
    images: ImageProcessor | None
    stops: set[int]
    rows: int
    probes: Sequence[Probe]
    said: Sequence[Said]
    max_new_tokens: int
    tolerance: float

    @staticmethod
    def of(form: Loaded, stops: set[int], probes: Sequence[Probe], max_new_tokens: int, tolerance: float) -> Trained:
        """Ask `form` the probes; nothing of its weights is kept."""
        form.stops = stops
        said = [form.say(probe, max_new_tokens) for probe in probes]
        rows = len(form.model.get_input_embeddings().weight)
        return Trained(form.name, form.tokenizer, form.images, stops, rows, probes, said, max_new_tokens, tolerance)

    @property
    def scale(self) -> float:
        """The largest logit."""
        return max(float(said.logits.abs().max()) for said in self.said if said.logits is not None)


@dataclass
class Finding:
    """What comparing one form found. `problems` are reasons to refuse it, `notes` what people should know."""

    form: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    difference: float | None = None

    @property
    def passed(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "passed": self.passed,
            "problems": self.problems,
            "notes": self.notes,
            "max_logit_difference": self.difference,
        }


def compare(trained: Trained, form: Form, *, rounded: bool = False) -> Finding:
    """Ask `form` the probes and hold what it says against what training's own model said.

    Of a `rounded` form, one in 4 or 8 bits, other answers are noted alone, and other logits up to ROUNDED: how far is
    for people to judge. A server that does not stop where training does is refused all the same.
    """
    finding = Finding(form.name)
    for number, (probe, expected) in enumerate(zip(trained.probes, trained.said, strict=True), 1):
        said = form.say(probe, trained.max_new_tokens)
        if problem := _prompt_problem(trained.tokenizer, expected, said):
            finding.problems.append(f"probe {number}: {problem}")
            continue  # what follows another prompt says nothing
        if rounded and (problem := _logits_problem(finding, trained, expected, said, max(ROUNDED, trained.tolerance))):
            finding.problems.append(f"probe {number}: {problem}")
            continue
        problem = _logits_problem(finding, trained, expected, said, trained.tolerance) or _text_problem(
            finding, trained, expected, said, f"probe {number}"
        )
        if problem:
            told = rounded and not _goes_on(expected, said)
            (finding.notes if told else finding.problems).append(f"probe {number}: {problem}")
    return finding


def _prompt_problem(tokenizer: Tokenizer, expected: Said, said: Said) -> str | None:
    if expected.prompt is None or expected.prompt == said.prompt:
        return None
    if said.prompt is None:
        return _length_problem(len(expected.prompt), said.length)
    at = first_difference(expected.prompt, said.prompt)
    return (
        f"the prompt differs from token {at + 1} on: {_word(tokenizer, said.prompt, at)} where training had "
        f"{_word(tokenizer, expected.prompt, at)}: another template, system prompt or tokenizer"
    )


def _length_problem(expected: int, said: int | None) -> str | None:
    """Of a server that tells only how long its prompts are, as LMDeploy does."""
    if said is None or said == expected:
        return None
    return f"the prompt has {said} tokens where training had {expected}: another template, system prompt or tokenizer"


def _word(tokenizer: Tokenizer, ids: Sequence[int], at: int) -> str:
    return f"{ids[at]} {tokenizer.decode([ids[at]])!r}" if at < len(ids) else "the end"


def _logits_problem(finding: Finding, trained: Trained, expected: Said, said: Said, tolerance: float) -> str | None:
    if expected.logits is None or said.logits is None:
        return None
    ours, theirs = expected.logits.shape[-1], said.logits.shape[-1]
    if ours != theirs:
        return f"it chooses among {theirs:,} words where training had {ours:,}: its vocabulary was padded or cut"
    kept = min(len(expected.logits), len(said.logits))
    difference = float((expected.logits[-kept:] - said.logits[-kept:]).abs().max())
    if math.isfinite(difference):  # JSON has no other number
        finding.difference = max(difference, finding.difference or 0.0)
    if difference <= tolerance * trained.scale:
        return None
    return (
        f"logits differ by {difference:.3g} at a scale of {trained.scale:.3g}; rounding explains "
        f"{tolerance * trained.scale:.2g}"
    )


def _text_problem(finding: Finding, trained: Trained, expected: Said, said: Said, where: str) -> str | None:
    """Why the answers differ; a choice between words that were as good as each other is noted alone."""
    if said.text is None or expected.text is None or (said.text, said.stopped) == (expected.text, expected.stopped):
        return None
    tokenizer = trained.tokenizer
    ours, theirs = expected.ids or [], said.ids
    if theirs is None:  # a server tells text alone
        ours, theirs = tokenizer.encode_text(expected.text), tokenizer.encode_text(said.text)
    at = first_difference(ours, theirs)
    if at < len(ours) and at < len(theirs):
        words = f"{_word(tokenizer, theirs, at)} where training says {_word(tokenizer, ours, at)}"
        sentence = f"the answer differs from token {at + 1} on: {words}"
        if expected.steps is None or at >= len(expected.steps):
            return sentence
        apart = float(expected.steps[at, ours[at]] - expected.steps[at, theirs[at]])
        if abs(apart) > 2 * max(SLACK * trained.scale, finding.difference or 0.0):
            return sentence
        finding.notes.append(f"{where}: {sentence}; to training they were as good, {abs(apart):.2g} apart")
        return None
    if expected.stopped and not said.stopped:
        return f"it goes on where training stops, after {expected.text[-40:]!r}"
    return f"it ends after {said.text[-40:]!r}, where training goes on"


def _goes_on(expected: Said, said: Said) -> bool:
    """Whether a server says all that training says, and then does not stop."""
    if said.logits is not None or said.text is None or expected.text is None:
        return False
    return expected.stopped and not said.stopped and said.text.startswith(expected.text)


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """The first place at which two lists differ, or at which the shorter ends."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


def folder_problems(trained: Trained, folder: Path, form: Loaded) -> Iterator[str]:
    """What the files of a form's folder would make other engines do otherwise. One sentence each."""
    if missing := sorted(trained.stops - form.stops):
        words = ", ".join(f"{i} {trained.tokenizer.decode([i])!r}" for i in missing)
        yield f"{folder / 'generation_config.json'} does not stop at {words}: answers would not end"
    rows = len(form.model.get_input_embeddings().weight)
    if rows != trained.rows:
        yield f"{folder}: its vocabulary has {rows:,} rows where training had {trained.rows:,}: it was padded or cut"
    yield from reading_problems(folder, (trained.tokenizer, trained.images), (form.tokenizer, form.images))


Reading = tuple["Tokenizer", "ImageProcessor | None"]


def reading_problems(folder: Path, ours: Reading, theirs: Reading) -> Iterator[str]:
    """How the tokenizer and the image processor of `folder`, `theirs`, read otherwise than ours."""
    (tokenizer, images), (other, seen) = ours, theirs
    if problem := _tokenizer_problem(tokenizer, other):
        yield f"{folder}: its tokenizer {problem}"
    if images is not None and seen is None:
        yield f"{folder}: its image processor is missing; copy preprocessor_config.json from the base"
    elif images is not None and seen is not None and dict(images.key()) != dict(seen.key()):
        yield f"{folder}: its image processor sees pictures otherwise than the one of training"


def _tokenizer_problem(ours: Tokenizer, theirs: Tokenizer) -> str | None:
    """The first way in which `theirs` reads otherwise: a sample, the words' ids, what the words' texts become."""
    if ours.encode_text(SAMPLE) != theirs.encode_text(SAMPLE):
        return "cuts text otherwise than the one of training"
    known, found = ours.words, theirs.words
    if other := min((pair[::-1] for pair in known.items() ^ found.items()), default=None):
        word = other[1]
        return f"has {found.get(word, 'no id')} for the word {word!r} where training had {known.get(word, 'none')}"
    if special := min(ours.specials ^ theirs.specials, default=None):
        return f"has {special!r} as an ordinary word where training had a special one, or the other way round"
    texts = ours.texts
    cuts, others = ours.encode_texts(texts), theirs.encode_texts(texts)
    text = next((text for text in texts if cuts[text] != others[text]), None)
    return None if text is None else f"cuts {text!r} otherwise than the one of training"


def missing_processor(ours: Path, theirs: Path) -> Iterator[str]:
    """The image processor's file that `ours` has and `theirs` lacks: ftx may see without it, other engines do not."""
    names = ("preprocessor_config.json", "processor_config.json")
    if any((ours / name).is_file() for name in names) and not any((theirs / name).is_file() for name in names):
        yield f"{theirs}: its image processor is missing; copy preprocessor_config.json from {ours}"


def precision_problems(family: ModelFamily, base: Path, folder: Path) -> Iterator[str]:
    """Weights stored in another precision than the base's, where no engine would tell."""
    ours = {info.dtype for info in family.checkpoint(base).tensors.values()}
    theirs = {info.dtype for info in family.checkpoint(folder).tensors.values()}
    if other := sorted(theirs - ours):
        yield (
            f"{folder} stores {', '.join(other)} where {base} stores {', '.join(sorted(ours))}: merge into the base's "
            "own precision"
        )


def tolerance_of(family: ModelFamily, folder: Path) -> float:
    """By the precision that the folder's weights are stored in."""
    dtypes = {info.dtype for info in family.checkpoint(folder).tensors.values()}
    return max(TOLERANCE.get(dtype, TOLERANCE["bfloat16"]) for dtype in dtypes)


def write_receipt_of(folder: Path, trained: Trained, findings: Sequence[Finding]) -> None:
    """Put what was found beside the seal of an artefact; what has no seal gets none."""
    if not (folder / MANIFEST).is_file():
        return
    probes = [
        Probed(
            *(probe.turns[-1], probe.system, probe.image, said.prompt or [], said.text or "", said.stopped),
            before=[*probe.turns[:-1]],
        )
        for probe, said in zip(trained.probes, trained.said, strict=True)
    ]
    write_receipt(
        folder,
        Receipt(
            seal=seal_of(folder),
            passed=all(finding.passed for finding in findings),
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            max_new_tokens=trained.max_new_tokens,
            probes=probes,
            forms=[finding.as_dict() for finding in findings],
        ),
    )
