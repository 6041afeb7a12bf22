"""LLaVA in XTuner's, Hugging Face's and haotian-liu's layouts against outputs recorded from their own code.

FTX_GOLDEN names another folder of cases: every llava_* folder with a golden.json is one. The language models and towers
that adapters belong to lie beside them and are found by what fits.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from conftest import FIXTURES, apart, stored_tensors
from ftx import Message, ModelError
from ftx.data.conversation import IMAGE
from ftx.data.encode import Encoder
from ftx.data.images import look_at, open_picture
from ftx.data.named import named_templates
from ftx.data.template import IGNORE, IMAGE_ID, Encoded
from ftx.export.convert import export
from ftx.plan import family_template
from ftx.plugins import load_registry
from ftx_llava.family import LLaVA
from ftx_sources.xtuner_rows import REPLAYS, conversation

pytestmark = pytest.mark.usefixtures("no_gradients")
GOLDEN = Path(os.environ.get("FTX_GOLDEN") or FIXTURES / "golden")
FOLDERS = sorted(path.parent for path in GOLDEN.glob("llava_*/golden.json"))
WITH_ROWS = [folder for folder in FOLDERS if (folder / "data.json").is_file()]
ALONE = [folder for folder in FOLDERS if folder not in WITH_ROWS]
# a case, the same model in another layout, the layout
PAIRS = [
    (folder, folder.with_name(folder.name + end), layout)
    for folder in WITH_ROWS
    for end, layout in (("_hf", "huggingface"), ("_official", "official"))
    if folder.with_name(folder.name + end) in ALONE
]
LOGITS, LOSS = 5e-5, 1e-5


@dataclass(frozen=True)
class Case:
    """A recorded model: `folder` holds what was recorded, `model_folder` the model, `family` what it needs beside."""

    folder: Path
    model_folder: Path
    family: LLaVA
    values: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @property
    def places(self) -> int:
        (ids,) = self.family.image_processor(self.model_folder).lay_out([(1, 1)])
        return len(ids)

    def pixels(self, *names: str) -> torch.Tensor:
        pictures = [open_picture(look_at(self.folder, name)) for name in names]
        return self.family.image_processor(self.model_folder).pixels([pictures])

    def expanded(self, ids: list[int], mark: int = IMAGE_ID) -> list[int]:
        """The ids with a place for each feature where one mark stands for a picture."""
        return [one for i in ids for one in ([IMAGE_ID] * self.places if i == mark else [i])]

    @property
    def rows(self) -> list[Encoded]:
        """The rows of data.json through ftx, as XTuner's map function and template have them."""
        encoder = Encoder(
            named_templates()[self.values["chat"]["template"]],
            self.family.tokenizer(self.model_folder),
            images=self.family.image_processor(self.model_folder),
        )
        talks = []
        for row in json.loads((self.folder / "data.json").read_text("utf-8")):
            talk = conversation(REPLAYS["llava"].turns(row), row.get("image"))
            talks.append(talk.with_pictures({name: look_at(self.folder, name) for name in talk.images}))
        rows = encoder.rows(talks)
        assert all(isinstance(row, Encoded) for row in rows)
        return rows  # type: ignore[return-value]


@cache
def case_of(folder: Path) -> Case:
    model_folder = folder / "llava" if (folder / "llava").is_dir() else folder
    values = json.loads((folder / "golden.json").read_text("utf-8"))
    tensors = load_file(folder / "golden.safetensors")
    fitting = [Case(folder, model_folder, family, values, tensors) for family in _fitting(model_folder)]
    if len(fitting) == 1:
        return fitting[0]
    assert fitting, f"no language model and tower in {GOLDEN} fit {model_folder}"
    # Language models of one size, of which the recorded logits know the right one.
    return min(fitting, key=lambda case: apart(first_logits(case), case.tensors["row0.logits"]))


def _fitting(folder: Path) -> list[LLaVA]:
    """Families with the bases that the folder needs, whatever their names."""
    files = sorted({*GOLDEN.glob("*/config.json"), *(FIXTURES / "golden").glob("*/config.json")})
    named = {path.parent.name: path for path in files if path.is_relative_to(GOLDEN)}
    configs = {
        path.parent: json.loads(path.read_text("utf-8"))
        for path in files
        if named.get(path.parent.name, path) == path  # the fixtures' own where the cases bring none of that name
    }
    towers = [str(place) for place, config in configs.items() if "vision_model" in config.get("model_type", "")]
    languages = [str(place) for place, config in configs.items() if config.get("model_type") in ("internlm2", "llama")]
    found = []
    for family in (LLaVA(), *(LLaVA(language_model=a, vision_tower=b) for a in languages for b in towers)):
        try:
            family.inspect(folder)
        except ModelError:
            continue
        found.append(family)
        if not family.language_model:  # it needs none
            break
    return found


@cache
def model(case_folder: Path) -> Any:
    case = case_of(case_folder)
    return _loaded(case.family, case.model_folder)


def _loaded(family: LLaVA, folder: Path) -> Any:
    return family.load(folder, dtype=torch.float32, device="cpu", attention="eager")


def first_logits(case: Case) -> torch.Tensor:
    with torch.inference_mode():
        whole = _loaded(case.family, case.model_folder)
        ids = case.expanded(case.values["rows"][0]["input_ids"])
        return whole(input_ids=torch.tensor([ids]), pixel_values=case.tensors["pixel_values"][:1]).logits


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


@pytest.fixture(params=WITH_ROWS, ids=lambda folder: folder.name)
def row_case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


@pytest.fixture(params=ALONE, ids=lambda folder: folder.name)
def lone_case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()))


def greedy(whole: Any, prompt: list[int], pixels: torch.Tensor, count: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = whole.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels,
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
    )
    return out[0, len(prompt) :].tolist()


def test_there_are_cases() -> None:
    assert WITH_ROWS and ALONE and PAIRS, f"no LLaVA cases in {GOLDEN}"


def test_pixels(case: Case) -> None:
    rows = case.folder / "data.json"
    names = [row["image"] for row in json.loads(rows.read_text("utf-8"))] if rows.is_file() else [case.values["image"]]
    for recorded, name in zip(case.tensors["pixel_values"], names, strict=True):
        if name:
            assert apart(case.pixels(name)[0], recorded) <= 1e-6


def test_tower_and_features(row_case: Case) -> None:
    whole, pixels = model(row_case.folder), row_case.tensors["pixel_values"]
    assert apart(whole.vision_features(pixels), row_case.tensors["visual_hidden_select"]) <= LOGITS
    assert apart(whole.picture_features(pixels), row_case.tensors["image_features"]) <= LOGITS


def test_ids_and_labels(row_case: Case) -> None:
    for ours, theirs in zip(row_case.rows, row_case.values["rows"], strict=True):
        assert ours.ids == row_case.expanded(theirs["input_ids"])
        spread = zip(theirs["input_ids"], theirs["labels"], strict=True)
        labels = [one for i, label in spread for one in [label] * (row_case.places if i == IMAGE_ID else 1)]
        assert ours.labels == labels


def test_logits_and_losses(row_case: Case) -> None:
    whole, values, rows = model(row_case.folder), row_case.values, row_case.rows
    pictured = iter(row_case.tensors["pixel_values"])
    pixels = [next(pictured)[None] if row.pictures else None for row in rows]
    for i, row in enumerate(rows):
        logits = whole(input_ids=torch.tensor([row.ids]), pixel_values=pixels[i]).logits
        if (recorded := row_case.tensors.get(f"row{i}.logits")) is not None:
            assert apart(logits, recorded) <= LOGITS
        assert loss_of(logits, torch.tensor([row.labels])) == pytest.approx(values["row_losses"][i], abs=LOSS)
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows])
    labels = torch.tensor([row.labels + [IGNORE] * (width - len(row.ids)) for row in rows])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])
    assert torch.equal(labels, row_case.tensors["expanded.labels"])
    seen = torch.cat([one for one in pixels if one is not None])
    logits = whole(input_ids=ids, attention_mask=mask, pixel_values=seen).logits
    assert loss_of(logits, labels) == pytest.approx(values["batch.loss"], abs=LOSS)


@pytest.mark.parametrize("template", ["named", "auto"])
def test_chat(template: str, row_case: Case) -> None:
    """The prompt of the recorded chat, by its template's name and as ftx chat finds it, and the greedy answer."""
    chat = row_case.values["chat"]
    tokenizer = row_case.family.tokenizer(row_case.model_folder)
    name = chat["template"] if template == "named" else "auto"
    chosen = family_template(name, tokenizer, row_case.family, row_case.model_folder)
    asked = Message("user", f"{IMAGE}\n{chat['question']}", images=(chat["image"],))
    places = row_case.family.image_processor(row_case.model_folder).lay_out([(1, 1)])
    prompt = chosen.prompt([asked], tokenizer, places)
    assert prompt == row_case.expanded(chat["input_ids"])
    expected = chat["greedy_new_ids"]
    assert greedy(model(row_case.folder), prompt, row_case.pixels(chat["image"]), len(expected)) == expected


def lone_row(case: Case) -> tuple[list[int], list[int]]:
    """Ids with places, and labels, of the one recorded row."""
    ids, labels = case.tensors["input_ids"][0].tolist(), case.tensors["labels"][0].tolist()
    mark = case.values.get("image_token_index", IMAGE_ID)
    pairs = zip(ids, labels, strict=True)
    spread = [one for i, label in pairs for one in [label] * (case.places if i == mark else 1)]
    return case.expanded(ids, mark), spread


def test_logits_loss_and_greedy_of_the_other_layouts(lone_case: Case) -> None:
    whole, pixels = model(lone_case.folder), lone_case.tensors["pixel_values"]
    ids, labels = lone_row(lone_case)
    logits = whole(input_ids=torch.tensor([ids]), pixel_values=pixels).logits
    assert apart(logits, lone_case.tensors["logits"]) <= LOGITS
    assert loss_of(logits, torch.tensor([labels])) == pytest.approx(lone_case.values["loss"], abs=LOSS)
    prompt = [i for i, label in zip(ids, labels, strict=True) if label == IGNORE]
    expected = lone_case.values["greedy_new_ids"]
    assert greedy(whole, prompt, pixels, len(expected)) == expected
    tokenizer = lone_case.family.tokenizer(lone_case.model_folder)
    assert named_templates()["vicuna"].prompt(_asked(lone_case), tokenizer, [(IMAGE_ID,) * lone_case.places]) == prompt


def _asked(case: Case) -> list[Message]:
    text = case.values["text"].removeprefix("USER: ").removesuffix(" ASSISTANT:")
    return [Message("user", text.replace("<image>", IMAGE), images=(case.values["image"],))]


def exported(case: Case, layout: str, out: Path) -> Path:
    options = {"name": "llava", **case.family.model_dump(exclude={"pad"}, exclude_none=True)}
    export(case.model_folder, layout, out, options, load_registry("none"))
    return out


@pytest.mark.parametrize(("folder", "twin", "layout"), PAIRS, ids=lambda value: getattr(value, "name", value))
def test_an_export_is_the_recorded_one(folder: Path, twin: Path, layout: str, tmp_path: Path) -> None:
    """Tensor by tensor; of Hugging Face's grown vocabulary the rows that were there before: the new ones are random."""
    ours, theirs = stored_tensors(exported(case_of(folder), layout, tmp_path / "out")), stored_tensors(twin)
    words = case_of(twin).values.get("original_vocab")
    assert ours.keys() == theirs.keys()
    for name, recorded in theirs.items():
        assert ours[name].shape == recorded.shape
        assert ours[name].dtype == recorded.dtype
        grown = words and recorded.shape[0] == case_of(twin).values["padded_vocab"]
        assert apart(ours[name][: words if grown else None], recorded[: words if grown else None]) <= 1e-6, name
    config, recorded_config = (json.loads((place / "config.json").read_text()) for place in (tmp_path / "out", twin))
    for key in ("image_token_index", "pad_token_id", "vision_feature_layer", "mm_hidden_size", "mm_projector_type"):
        assert config.get(key) == recorded_config.get(key)


def test_all_layouts_compute_the_same(row_case: Case, tmp_path: Path) -> None:
    """Logits over the words of the source and greedy answers, of every layout and of every layout's exports in turn."""
    chat = row_case.values["chat"]
    ids, pixels = row_case.expanded(chat["input_ids"]), row_case.pixels(chat["image"])
    expected = model(row_case.folder)(input_ids=torch.tensor([ids]), pixel_values=pixels).logits
    words = expected.shape[-1]
    for first in LLaVA.layouts:
        once = exported(row_case, first, tmp_path / first)
        for place in (once, *(tmp_path / f"{first}-{second}" for second in LLaVA.layouts)):
            if place != once:
                export(once, place.name.partition("-")[2], place, {"name": "llava"}, load_registry("none"))
            assert str(GOLDEN) not in "".join(path.read_text() for path in place.rglob("*.json"))
            family = LLaVA()
            family.inspect(place)
            whole = _loaded(family, place)
            logits = whole(input_ids=torch.tensor([ids]), pixel_values=pixels).logits
            assert apart(logits[..., :words], expected) <= LOGITS
            assert greedy(whole, ids, pixels, len(chat["greedy_new_ids"])) == chat["greedy_new_ids"]
            images = family.image_processor(place)
            assert images.key() == row_case.family.image_processor(row_case.model_folder).key()
            prompt = family_template("auto", family.tokenizer(place), family, place).prompt(
                [Message("user", f"{IMAGE}\n{chat['question']}", images=("x",))],
                family.tokenizer(place),
                images.lay_out([(1, 1)]),
            )
            assert prompt == ids


def test_plain_transformers_reads_the_export(row_case: Case, tmp_path: Path) -> None:
    """With its own class, processor and <image> of its own."""
    from transformers import AutoTokenizer

    chat = row_case.values["chat"]
    out = exported(row_case, "huggingface", tmp_path / "hf")
    plain = LlavaForConditionalGeneration.from_pretrained(str(out), dtype=torch.float32, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    mark = tokenizer.convert_tokens_to_ids("<image>")
    assert mark == plain.config.image_token_id
    ids = row_case.expanded(chat["input_ids"])
    theirs = torch.tensor([[mark if i == IMAGE_ID else i for i in ids]])
    pixels = row_case.pixels(chat["image"])
    logits = plain(input_ids=theirs, pixel_values=pixels, attention_mask=torch.ones_like(theirs)).logits
    ours = model(row_case.folder)(input_ids=torch.tensor([ids]), pixel_values=pixels).logits
    assert apart(logits[..., : ours.shape[-1]], ours) <= LOGITS
    assert tokenizer(chat["prompt"]).input_ids.count(mark) == 1
