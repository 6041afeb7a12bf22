"""Vision-language models that transformers has natively: what they see, learn and give back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText

from conftest import Result
from ftx import ModelError, few_bits
from ftx.data.template import IMAGE_ID
from ftx.export.weights import export_weights
from ftx.fast.weight import dense, stored_as
from ftx.run import losses
from ftx_transformers.modeling import prove_sight
from ftx_transformers.pictures import NativePictures
from ftx_transformers.seeing import TransformersVision
from picture_rows import write_picture_rows
from seeing_models import KINDS, make

FAMILY = TransformersVision()
PICTURES = [((200, 30, 30), (56, 56)), ((30, 200, 30), (130, 60)), ((30, 30, 200), (60, 190))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: make(name, root / name) for name in KINDS}


def drawn() -> list[Image.Image]:
    pictures = [Image.new("RGB", size, colour) for colour, size in PICTURES]
    for picture in pictures:
        picture.paste((250, 250, 0), (10, 10, 30, 40))
    return pictures


def load(folder: Path) -> Any:
    return FAMILY.load(folder, dtype=torch.float32, device="cpu", attention="sdpa")


@pytest.mark.parametrize("name", KINDS)
def test_a_row_means_what_it_means_to_transformers(name: str, folders: dict[str, Path]) -> None:
    folder = folders[name]
    eyes = FAMILY.image_processor(folder)
    assert isinstance(eyes, NativePictures)
    pictures = drawn()
    placed = eyes.lay_out([picture.size for picture in pictures])
    row = [1, 5, *placed[0], 9, *placed[1], 7, *placed[2], 11, 12]
    ids = torch.tensor([row])
    pixels = eyes.pixels([pictures])
    plain = AutoModelForImageTextToText.from_pretrained(folder).eval()
    theirs = ids.masked_fill(ids == IMAGE_ID, plain.config.image_token_id)
    marked = {"token_type_ids": (ids == IMAGE_ID).long()} if name == "gemma3" else {}
    with torch.inference_mode():
        expected = plain(input_ids=theirs, pixel_values=pixels, **marked).logits
        found = load(folder)(input_ids=ids, pixel_values=pixels).logits
    assert found.std() > 1e-2
    assert float((found - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("name", ["llava", "internvl", "gemma3"])
def test_answers_are_those_of_transformers(name: str, folders: dict[str, Path]) -> None:
    """Greedy, with a cache: the picture is seen once and remembered."""
    eyes = FAMILY.image_processor(folders[name])
    ids = torch.tensor([[1, 5, *eyes.lay_out([PICTURES[1][1]])[0], 9, 8]])
    pixels = eyes.pixels([drawn()[1:2]])
    plain = AutoModelForImageTextToText.from_pretrained(folders[name]).eval()
    theirs = ids.masked_fill(ids == IMAGE_ID, plain.config.image_token_id)
    marked = {"token_type_ids": (ids == IMAGE_ID).long()} if name == "gemma3" else {}
    wanted = {"pixel_values": pixels, "attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "do_sample": False}
    expected = plain.generate(theirs, **wanted, **marked)
    assert torch.equal(load(folders[name]).generate(ids, **wanted)[:, ids.shape[1] :], expected[:, ids.shape[1] :])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_pictures_attend_to_themselves_both_ways(attention: str, folders: dict[str, Path]) -> None:
    folder = folders["gemma3"]
    eyes = FAMILY.image_processor(folder)
    model = FAMILY.load(folder, dtype=torch.float32, device="cpu", attention=attention)
    pixels = eyes.pixels([drawn()[:2]])
    placed = eyes.lay_out([(56, 56)])[0]
    samples = [[1, 5, *placed, 9], [1, *placed, 7, 8, 11]]
    positions = torch.tensor([[i for sample in samples for i in range(len(sample))]])
    with torch.inference_mode():
        packed = model(
            input_ids=torch.tensor([[*samples[0], *samples[1]]]), pixel_values=pixels, position_ids=positions
        ).logits
        alone = [
            model(input_ids=torch.tensor([s]), pixel_values=pixels[i : i + 1]).logits for i, s in enumerate(samples)
        ]
    assert float((packed - torch.cat(alone, 1)).abs().max()) <= 1e-5


def test_an_unknown_kind_is_proven_as_it_is_loaded(folders: dict[str, Path]) -> None:
    model = load(folders["llava"])
    native = AutoModelForImageTextToText._model_mapping[type(model.config)]

    class Brighter(native):  # type: ignore[misc, valid-type]
        def forward(self, pixel_values: torch.Tensor, **rest: Any) -> Any:
            return native.forward(self, pixel_values=pixel_values * 2, **rest)

    prove_sight(model, native)
    with pytest.raises(ModelError, match="a 'llava' model makes more of a picture than features at their places"):
        prove_sight(model, Brighter)


@pytest.mark.parametrize("with_head", [False, True])
def test_the_proof_leaves_weights_in_4_bits_as_they_are(
    with_head: bool, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILY.for_folder(folders["llava"])
    how = few_bits.quantization(4, torch.float32, family, with_head=with_head)
    found = []
    for known in (("llava",), ()):
        monkeypatch.setattr("ftx_transformers.seeing.KNOWN", known)
        held: Any = family.load(folders["llava"], dtype=torch.float32, device="cpu", attention="sdpa", quantization=how)
        layers = [layer for layer in held.modules() if stored_as(layer) == "nf4"]
        found.append([dense(layer, torch.float32)[0] for layer in layers])
    assert found[0] and all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["llava", "llava_siglip", "aya_vision", "gemma3"])
def test_places_and_pixels_are_those_of_the_processor(name: str, folders: dict[str, Path]) -> None:
    """Against the processor's own call on each picture, tokens around it included."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    folder = folders[name]
    config = AutoConfig.from_pretrained(folder)
    eyes, tokenizer = FAMILY.image_processor(folder), FAMILY.tokenizer(folder)
    settings = json.loads((folder / "processor_config.json").read_text())
    processor = PROCESSOR_MAPPING[type(config)](eyes.processor, tokenizer.hf, **settings)
    for picture in drawn():
        given = processor(images=[picture], text=[processor.image_token], add_special_tokens=False, return_tensors="pt")
        (placed,) = eyes.lay_out([picture.size])
        assert [config.image_token_id if i == IMAGE_ID else i for i in placed] == given["input_ids"][0].tolist()
        assert torch.equal(eyes.pixels([[picture]]), given["pixel_values"])


def test_an_internvl_is_tiled_as_its_processor_says(folders: dict[str, Path]) -> None:
    """By class default its processor cuts, whatever the image processor's file says; <img> and </img> stand around."""
    settings = folders["internvl"] / "preprocessor_config.json"
    values = json.loads(settings.read_text())
    settings.write_text(json.dumps({**values, "crop_to_patches": False}))
    eyes = FAMILY.image_processor(folders["internvl"])
    settings.write_text(json.dumps(values))
    tokenizer = FAMILY.tokenizer(folders["internvl"])
    begin, end = tokenizer.special("<img>"), tokenizer.special("</img>")
    assert eyes.lay_out([(56, 56), (130, 60)]) == [(begin, *[IMAGE_ID] * 4, end), (begin, *[IMAGE_ID] * 12, end)]
    assert eyes.pixels([[Image.new("RGB", (130, 60))]]).shape == (3, 3, 56, 56)


@pytest.mark.parametrize("name", ["internvl", "aya_vision"])
def test_tiles_are_the_users_choice(name: str, folders: dict[str, Path]) -> None:
    eyes = TransformersVision(max_patches=2).image_processor(folders[name])
    placed = eyes.lay_out([(300, 60), (300, 70)])
    assert [row.count(IMAGE_ID) for row in placed] == [12, 12]
    assert eyes.pixels([[Image.new("RGB", (300, 60))]]).shape == (3, 3, 56, 56)
    with pytest.raises(ModelError, match="max_patches: the image processor of this 'llava' cuts no tiles"):
        TransformersVision(max_patches=2).image_processor(folders["llava"])


def test_a_processor_saved_whole_is_read(folders: dict[str, Path], tmp_path: Path) -> None:
    """As transformers 5 saves one: all settings in processor_config.json."""
    model = shutil.copytree(folders["llava"], tmp_path / "model")
    images = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").unlink()
    rewrite(model / "processor_config.json", image_processor=images, processor_class="LlavaProcessor")
    whole, apart = FAMILY.image_processor(model), FAMILY.image_processor(folders["llava"])
    assert torch.equal(whole.pixels([drawn()]), apart.pixels([drawn()]))
    assert whole.key() == apart.key()


def flags(folder: Path, rows: Path, method: str, *more: Any) -> list[Any]:
    rate = {"full": 3e-3, "projector": 1e-2}.get(method, 5e-3)
    short = ["--max-steps", 4, "--global-batch-size", 6, "--micro-batch-size", 3, "--max-length", 400]
    return ["--model", folder, "--data", rows, "--method", method, "--lr", rate, *short, *more]


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_found_tuned_merged_and_asked(
    name: str, ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = write_picture_rows(tmp_path / "data", 9)
    plugin = ["--plugin", "transformers"] if name.startswith("llava") else []
    given = flags(folders[name], rows, "lora", *plugin, "--out", "run")
    result = ftx("train", *given, "--json")
    assert result.code == 0, result.err
    plan = json.loads(Path("run/plan.json").read_text())
    assert plan["family"] == {"name": "transformers_vision", "max_patches": None}
    curve = list(losses(Path("run")).values())
    assert curve[-1] < curve[0]
    merged = ftx("merge", "run", "--json")
    assert merged.code == 0, merged.err
    before, after = (load_file(f / "model.safetensors") for f in (folders[name], Path("run/merged")))
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert all("_proj" in key or "projector" in key for key in changed)
    assert not any("vision_tower" in key or "vision_model" in key for key in changed)
    assert {"layers" in key for key in changed} == {True, False}
    picture = ["--image", tmp_path / "data" / "0.png"]
    said = ftx("chat", "run/merged", "--once", "What?", *picture, "--max-new-tokens", 8, "--json")
    assert said.code == 0, said.err


@pytest.mark.parametrize(
    ("name", "method"),
    [("llava", "qlora"), ("llava", "full"), ("llava", "projector"), ("internvl", "full"), ("gemma3", "projector")],
)
def test_every_method_learns(
    name: str, method: str, ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = write_picture_rows(tmp_path / "data", 9)
    given = ["--plugin", "transformers", "--out", "run", "--json"]
    result = ftx("train", *flags(folders[name], rows, method, *given))
    assert result.code == 0, result.err
    curve = list(losses(Path("run")).values())
    assert curve[-1] < curve[0]
    if method != "full":
        assert ftx("merge", "run", "--json").code == 0
    out = Path("run/model" if method == "full" else "run/merged")
    before, after = (load_file(f / "model.safetensors") for f in (folders[name], out))
    assert {k: (t.shape, t.dtype) for k, t in before.items()} == {k: (t.shape, t.dtype) for k, t in after.items()}
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    if method == "projector":
        assert all("projector" in key for key in changed)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_comes_out_bit_for_bit(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    export_weights(load(folders[name]).state_dict(), FAMILY, folders[name], tmp_path)
    before, after = load_file(folders[name] / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_vision_and_projector_are_trained_as_asked(
    ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = write_picture_rows(tmp_path / "data", 3)
    wanted = ["--set", "method.vision=lora", "--set", "method.projector=frozen", "--max-steps", 1, "--out", "run"]
    wanted += ["--micro-batch-size", 1]  # the third row alone has no picture
    assert ftx("train", *flags(folders["llava"], rows, "lora", *wanted, "--plugin", "transformers")).code == 0
    tuned = set(load_file("run/adapter/adapter_model.safetensors"))
    assert {key.split(".")[3] for key in tuned} == {"language_model", "vision_tower"}


@pytest.mark.parametrize("name", ["internvl", "gemma3"])
def test_packed_rows_see_only_themselves(
    name: str, ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = write_picture_rows(tmp_path / "data", 6)
    seen = []
    for packing in ("none", "best_fit"):
        once = ["--packing", packing, "--max-steps", 1, "--global-batch-size", 6, "--out", tmp_path / packing]
        assert ftx("train", *flags(folders[name], rows, "lora", *once)).code == 0
        seen.append(losses(tmp_path / packing)[1])
    assert seen[0] == pytest.approx(seen[1], rel=2e-6)


def test_pictures_count_in_the_length_of_a_row(
    ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    given = flags(folders["internvl"], write_picture_rows(tmp_path / "data", 1), "lora")
    (whole,) = ftx("plan", *given, "--json").events
    length = whole["data"]["rows"]["longest"]
    result = ftx("plan", *given, "--max-length", length - 1, "--overlong", "reject")
    assert result.code == 3
    assert f"the row has {length} tokens, too many for data.max_length {length - 1}" in result.out + result.err


LISTED = (
    "{% for m in messages %}[{{ m.role }}]{% for part in m.content | selectattr('type', 'equalto', 'image') %}<image>"
    "{% endfor %}{% for part in m.content | selectattr('type', 'equalto', 'text') %}{{ part.text }}{% endfor %}"
    "{{ eos_token }}{% endfor %}"
)


@pytest.mark.parametrize("file", ["chat_template.jinja", "chat_template.json"])
def test_a_template_that_takes_lists_of_parts_is_the_folders(
    file: str, ftx: Callable[..., Result], folders: dict[str, Path], tmp_path: Path
) -> None:
    model = shutil.copytree(folders["llava"], tmp_path / "model")
    (model / "chat_template.jinja").unlink(missing_ok=True)
    (model / file).write_text(json.dumps({"chat_template": LISTED}) if file.endswith("json") else LISTED)
    rows = write_picture_rows(tmp_path / "data", 1)
    shown = ftx("data", "show", rows, "--model", model, "--family", "transformers", "--json").events[0]
    text = "".join(part["text"] for part in shown["stretches"])
    assert text.startswith("[user]" + "<image>" * 16 + "\nWhat colour is number 0?</s>[assistant]It is red.</s>")
    given = flags(model, rows, "lora", "--plugin", "transformers", "--max-steps", 1, "--out", "run")
    assert ftx("train", *given).code == 0
    asked = ftx("chat", "run", "--once", "What?", "--image", tmp_path / "data" / "0.png", "--max-new-tokens", 2)
    assert asked.code == 0, asked.err


# what is refused


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        ("qwen2_vl", "image_grid_thw, mm_token_type_ids, pixel_values_videos, video_grid_thw"),
        ("mistral3", "image_sizes"),
        ("idefics3", "pixel_attention_mask"),
        ("paligemma", "token_type_ids"),
        ("llava_next", "image_sizes"),
    ],
)
def test_a_kind_that_needs_more_is_refused(kind: str, needed: str, ftx: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": kind}))
    result = ftx("plan", "--model", tmp_path / "model", "--data", write_picture_rows(tmp_path / "data", 1))
    assert result.code == 2
    assert f"a '{kind}' model sees by more than one tensor of pixels, which ftx has not: " in result.err
    assert needed.split(", ")[0] in result.err


def rewrite(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("name", "file", "values", "words"),
    [
        ("llava", "preprocessor_config.json", {"do_center_crop": False}, "gives pictures different shapes"),
        (
            "llava",
            "preprocessor_config.json",
            {"size": {"shortest_edge": "wide"}},
            "preprocessor_config.json cannot be used",
        ),
        (
            "llava_siglip",
            "preprocessor_config.json",
            {"size": {"height": 70, "width": 70}},
            "tiles of 70 x 70 pixels, which the vision tower does not take",
        ),
        ("aya_vision", "processor_config.json", {"patch_size": 28}, "are of different models"),
        ("got_ocr2", "config.json", {"model_type": "nothing"}, "no plugin reads model_type 'nothing'"),
    ],
)
def test_a_folder_that_does_not_fit_itself_is_refused(
    name: str,
    file: str,
    values: dict[str, Any],
    words: str,
    ftx: Callable[..., Result],
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    model = shutil.copytree(folders[name], tmp_path / "model")
    rewrite(model / file, **values)
    # llava's folders would be another plugin's
    named = ["--plugin", "transformers"] if name.startswith("llava") else []
    result = ftx("plan", *named, *flags(model, write_picture_rows(tmp_path / "data", 1), "lora"))
    assert result.code == 2, result.err
    assert words in result.err


def test_a_language_model_is_no_model_that_sees(tiny: Path) -> None:
    with pytest.raises(ModelError, match="which transformers has no vision-language model for"):
        FAMILY.inspect(tiny)


def test_places_without_features_are_an_error(folders: dict[str, Path]) -> None:
    model, eyes = load(folders["llava"]), FAMILY.image_processor(folders["llava"])
    with pytest.raises(ValueError, match="16 features of pictures for 3 places"):
        model(input_ids=torch.tensor([[1, *[IMAGE_ID] * 3]]), pixel_values=eyes.pixels([drawn()[:1]]))
