"""InternVL2 against its official code.

FTX_GOLDEN names another folder of cases: every internvl2_* folder with a golden.json is one.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from conftest import FIXTURES, apart, assert_same_bits, recorded_folder, stored_tensors
from ftx import Conversation, Message
from ftx.data.conversation import IMAGE, Picture
from ftx.data.encode import Encoder
from ftx.data.images import look_at, open_picture
from ftx.data.named import named_templates
from ftx.data.template import IGNORE, IMAGE_ID, Encoded
from ftx.export.weights import export_weights
from ftx.plugins import load_registry
from ftx.talk import Sampling, open_talk
from ftx_internvl.family import InternVL
from ftx_internvl.tiles import Tiling, best_grid
from ftx_sources.xtuner_rows import REPLAYS, conversation

pytestmark = pytest.mark.usefixtures("no_gradients")
GOLDEN = Path(os.environ.get("FTX_GOLDEN") or FIXTURES / "golden")
FOLDERS = sorted(path.parent for path in GOLDEN.glob("internvl2_*/golden.json"))
TOLERANCE = 5e-5
FAMILY = InternVL()


@dataclass(frozen=True)
class Case:
    folder: Path
    values: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @property
    def images(self) -> list[str]:
        """Names of the recorded pictures."""
        return sorted(key for key, value in self.values.items() if key.startswith("image") and "file" in value)

    def picture(self, name: str) -> Picture:
        return look_at(self.folder, self.values[name]["file"])

    @property
    def eyes(self) -> Tiling:
        found = FAMILY.image_processor(self.folder)
        assert isinstance(found, Tiling)
        return found


@cache
def model(folder: Path) -> Any:
    return FAMILY.load(folder, dtype=torch.float32, device="cpu", attention="eager")


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def case(request: pytest.FixtureRequest) -> Case:
    folder: Path = request.param
    return Case(folder, json.loads((folder / "golden.json").read_text()), load_file(folder / "golden.safetensors"))


def test_there_are_cases() -> None:
    assert FOLDERS


def test_the_folder_is_accounted_for(case: Case) -> None:
    facts = FAMILY.inspect(case.folder)
    assert facts.parameters == case.values.get("num_params", facts.parameters)


def test_pixels_tower_and_features(case: Case) -> None:
    for name in case.images:
        picture = open_picture(case.picture(name))
        assert list(picture.size) == case.values[name]["size"]
        pixels = case.eyes.pixels([[picture]])
        assert len(pixels) == case.values[name]["tiles"] == case.eyes.tiles(picture.size)
        if (recorded := case.tensors.get(f"{name}.pixel_values")) is not None:
            assert apart(pixels, recorded) <= 1e-6
        if (recorded := case.tensors.get(f"{name}.vision_last_hidden")) is not None:
            whole = model(case.folder)
            layers = whole.config.vision_feature_layer
            whole.config.vision_feature_layer = -1
            assert apart(whole.vision_features(pixels), recorded) <= TOLERANCE
            whole.config.vision_feature_layer = layers
        if (recorded := case.tensors.get(f"{name}.features")) is not None:
            assert apart(model(case.folder).picture_features(pixels), recorded) <= TOLERANCE


def with_places(case: Case, ids: torch.Tensor) -> torch.Tensor:
    return ids.masked_fill(ids == case.values["img_context_token_id"], IMAGE_ID)


def batch_pixels(case: Case) -> torch.Tensor:
    """Pictures of the recorded batch in the order of its rows, one a row from the first, then rows of text."""
    flags = case.tensors["batch.image_flags"].flatten()
    names = case.images[: len(case.values["questions"])]
    tiles = torch.cat([case.eyes.pixels([[open_picture(case.picture(name))]]) for name in names])
    assert len(tiles) == int(flags.sum())
    return tiles


def test_batch_logits_and_loss(case: Case) -> None:
    ids, mask = case.tensors["batch.input_ids"], case.tensors["batch.attention_mask"]
    logits = model(case.folder)(
        input_ids=with_places(case, ids), attention_mask=mask, pixel_values=batch_pixels(case)
    ).logits
    first, last = case.tensors["batch.logits_row0"], case.tensors["batch.logits_lastrow"]
    whole, end = int(mask[0].sum()), int(mask[-1].sum())
    assert apart(logits[0, :whole], first[:whole]) <= TOLERANCE
    assert apart(logits[-1, :end], last[:end]) <= TOLERANCE
    labels = case.tensors["batch.labels"]
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
    assert abs(float(loss) - case.values["batch.loss"]) <= 1e-5


def test_rows_of_the_batch_are_ours(case: Case) -> None:
    """Question and answer through ftx's template give the recorded ids, and what is learnt of them."""
    template = FAMILY.own_template(case.folder)
    assert template is not None
    tokenizer = FAMILY.tokenizer(case.folder)
    images = iter(case.images)
    for i, (question, answer) in enumerate(zip(case.values["questions"], case.values["answers"], strict=True)):
        pictures = [case.picture(next(images))] if "<img>" in case.values["prompts"][i] else []
        said = f"{IMAGE}\n{question}" if pictures else question
        asked = Message("user", said, images=tuple("x" for _ in pictures), pictures=tuple(pictures))
        talk = Conversation.of([asked, Message("assistant", answer)])
        (row,) = Encoder(template, tokenizer, images=case.eyes).rows([talk])
        length = int(case.tensors["batch.attention_mask"][i].sum())
        ids = with_places(case, case.tensors["batch.input_ids"][i, :length]).tolist()
        assert row.ids[: len(ids)] == ids
        labels = case.tensors["batch.labels"][i, :length].tolist()
        assert [label for label in row.labels[: len(ids)] if label != IGNORE] == [x for x in labels if x != IGNORE]


def test_greedy(case: Case) -> None:
    prompt = with_places(case, torch.tensor([case.values["greedy.prompt_ids"]]))
    expected = case.values["greedy.new_ids"]
    tiles = case.eyes.pixels([[open_picture(case.picture(case.images[0]))]])
    out = model(case.folder).generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        pixel_values=tiles,
        max_new_tokens=len(expected),
        do_sample=False,
        eos_token_id=None,
    )
    assert out[0, prompt.shape[1] :].tolist() == expected


def test_chat_of_two_turns(case: Case) -> None:
    """ftx's own chat, from a folder and a picture file, says what the official chat() did.

    The official answers were cut after fewer tokens, and special tokens left out of them, in the history too.
    """
    opened = open_talk(case.folder, load_registry("none"))
    talk = replace(opened, model=model(case.folder))
    turns = [case.values["chat"], *([case.values["chat2"]] if "chat2" in case.values else [])]
    for i, turn in enumerate(turns):
        images = [case.folder / case.values[case.images[0]]["file"]] if not i else []
        answer = talk.ask(turn["question"], Sampling(max_new_tokens=32), images=images)
        parts = talk.tokenizer.split_specials(answer.text)
        plain = "".join(part for part in parts if talk.tokenizer.special(part) is None)
        assert turn["response"]
        assert plain.strip().startswith(turn["response"])
        talk.history[-1] = Message("assistant", turn["response"])


def test_gradients(case: Case) -> None:
    """Norms of all gradients of the recorded batch, by the official names."""
    if "batch.grad_norms" not in case.values:  # not recorded for every case
        return
    with torch.inference_mode(False), torch.enable_grad():
        whole = FAMILY.load(case.folder, dtype=torch.float32, device="cpu", attention="eager")
        ids, mask = case.tensors["batch.input_ids"].clone(), case.tensors["batch.attention_mask"].clone()
        logits = whole(
            input_ids=with_places(case, ids), attention_mask=mask, pixel_values=batch_pixels(case).clone()
        ).logits
        labels = case.tensors["batch.labels"].clone()
        torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE
        ).backward()
        layout = FAMILY.layout(case.folder)
        native = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
        for stored, norm in case.values["batch.grad_norms"].items():
            assert float(layout.join(stored, native).norm()) == pytest.approx(norm, rel=2e-4, abs=1e-6), stored


def test_export_is_the_source_bit_for_bit(case: Case, tmp_path: Path) -> None:
    export_weights(model(case.folder).state_dict(), FAMILY, case.folder, tmp_path)
    assert_same_bits(stored_tensors(tmp_path), stored_tensors(case.folder))


PREPROCESS = [
    one
    for file in sorted(GOLDEN.glob("internvl_dynamic_preprocess*.json"))
    for one in json.loads(file.read_text())["cases"]
]


@pytest.mark.parametrize("one", PREPROCESS, ids=lambda one: f"{one['width']}x{one['height']}-{one['image_size']}")
def test_tiles_are_the_official_ones(one: dict[str, Any]) -> None:
    size = one["width"], one["height"]
    eyes = Tiling(
        one["image_size"],
        4,
        one["min_num"],
        one["max_num"],
        one["use_thumbnail"],
        dynamic=True,
        pad=False,
        begin=0,
        end=0,
    )
    assert best_grid(size, one["image_size"], one["min_num"], one["max_num"]) == (one["cols"], one["rows"])
    assert eyes.tiles(size) == one["tiles"]
    pixels = eyes.pixels([[Image.new("RGB", size)]])
    assert pixels.shape == (one["tiles"], 3, one["image_size"], one["image_size"])


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("xtuner_internvl_dataset*.json")), ids=lambda file: file.stem)
def test_xtuners_dataset(file: Path) -> None:
    """Ids, labels, tiles and pixels of XTuner's InternVL_V1_5_Dataset."""
    recorded = json.loads(file.read_text())
    folder = recorded_folder(recorded["model"].rpartition("/")[2])
    eyes, tokenizer = FAMILY.image_processor(folder), FAMILY.tokenizer(folder)
    template = replace(named_templates()["internvl2_xtuner"], default_system=recorded["system"])
    assert named_templates()["internvl2_xtuner"] == template
    encoder = Encoder(template, tokenizer, images=eyes)
    place, most = tokenizer.special("<IMG_CONTEXT>"), recorded["kwargs"]["max_length"]
    for sample, row in zip(recorded["samples"], recorded["rows"], strict=True):
        talk = conversation(REPLAYS["llava"].turns(sample), sample.get("image"))
        talk = talk.with_pictures({name: look_at(folder, name) for name in talk.images})
        (ours,) = encoder.rows([talk])
        assert isinstance(ours, Encoded)
        theirs = [IMAGE_ID if i == place else i for i in row["input_ids"]]
        assert (ours.ids[:most], ours.labels[:most]) == (theirs, row["labels"])
        if talk.images:
            pixels = eyes.pixels([[open_picture(picture) for picture in talk.pictures]])
            assert len(pixels) == row["tiles"]
            assert float(pixels.double().sum()) == pytest.approx(row["pixel_sum"], abs=1e-2)
