"""The second quickstart without its model family: scenes, corpus, captions, the start model, the page, the command."""

from __future__ import annotations

import base64
import html
import io
import json
import random
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ftx.artifact import Artifact
from ftx.checkpoint_files import Checkpoint
from ftx.console import Console
from ftx.data.images import look_at
from ftx.data.sets import open_set
from ftx.errors import VerificationError
from ftx.plugins import load_registry
from ftx.pretrained import load_tokenizer
from ftx.recipe import written as read_recipe
from ftx.report import page
from ftx.talk import Answer, Sampling, open_talk
from ftx_internlm2.layout import InternLM2Layout
from ftx_quickstart import (
    build_vision_base,
    captions,
    corpus,
    picture_corpus,
    picture_report,
    picture_run,
    scene_words,
    scenes,
)
from ftx_quickstart.first_run import BASE
from ftx_quickstart.scenes import Group, Scene
from ftx_quickstart.vision_config import ADDED_TOKENS, TILE, VISION
from ftx_sources.files import Files

FIXTURES = Path(__file__).parent / "fixtures"
LARGEST = 12_000_000  # bytes of the whole folder
TWO = Scene((Group("circle", "red", 1, "left"), Group("star", "orange", 2, "right")), (112, 112), 7)


def some_scenes(count: int, seed: int = 0, **how: Any) -> list[Scene]:
    rng = random.Random(seed)
    return [scenes.draw_scene(rng, **how) for _ in range(count)]


# Scenes and pictures


def test_a_seed_draws_the_same_scenes_and_pixels() -> None:
    assert some_scenes(20) == some_scenes(20) != some_scenes(20, 1)
    for scene in some_scenes(10):
        assert scenes.picture(scene).tobytes() == scenes.picture(scene).tobytes()
        assert scenes.picture(scene).tobytes() != scenes.picture(replace(scene, seed=scene.seed + 1)).tobytes()


def test_pictures_have_their_size_and_several_of_them_occur() -> None:
    drawn = some_scenes(60)
    assert {scene.size for scene in drawn} == set(scenes.SIZES)
    for scene in drawn:
        shown = scenes.picture(scene)
        assert (shown.size, shown.mode) == (scene.size, "RGB")


def test_scenes_use_all_there_is() -> None:
    groups = [group for scene in some_scenes(400) for group in scene.groups]
    assert {group.shape for group in groups} == set(scenes.SHAPES)
    assert {group.colour for group in groups} == set(scenes.COLOURS)
    assert {group.place for group in groups} == set(scenes.PLACES)
    assert {group.count for group in groups} == {1, 2, 3, 4}
    assert {len(scene.groups) for scene in some_scenes(400)} == {1, 2, 3, 4}
    assert max(len(scene.groups) for scene in some_scenes(400, most_kinds=2)) == 2


@pytest.mark.parametrize(
    "groups",
    [
        (),
        (Group("star", "red", 1, "right"), Group("circle", "red", 1, "left")),
        (Group("star", "red", 1, "left"), Group("star", "blue", 1, "right")),
        (Group("star", "red", 1, "left"), Group("moon", "blue", 1, "left")),
        (Group("star", "red", 5, "left"),),
        (Group("star", "grey", 1, "left"),),
    ],
)
def test_scenes_that_have_two_answers_are_refused(groups: tuple[Group, ...]) -> None:
    with pytest.raises(ValueError):
        Scene(groups, (112, 112), 0)


def pixels_near(shown: Image.Image, colour: tuple[int, int, int]) -> int:
    return sum(
        count * (max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) < 14)
        for count, pixel in shown.getcolors(maxcolors=shown.width * shown.height) or []
    )


@pytest.mark.parametrize("colour", scenes.COLOURS)
def test_more_things_show_more_of_their_colour_and_of_no_other(colour: str) -> None:
    def area(count: int, of: str) -> int:
        scene = Scene((Group("square", colour, count, "left"),), (112, 112), 3)
        return pixels_near(scenes.picture(scene), scenes.COLOURS[of])

    assert area(1, colour) > 150
    assert [area(count, colour) for count in (1, 2, 3)] == sorted(area(count, colour) for count in (1, 2, 3))
    assert sum(area(2, other) for other in scenes.COLOURS if other != colour) < 10


@pytest.mark.parametrize("place", scenes.PLACES)
def test_things_stand_where_the_scene_says(place: str) -> None:
    for size in set(scenes.SIZES):
        for seed in range(5):
            scene = Scene((Group("heart", "black", 1, place),), size, seed)
            dark = scenes.picture(scene).convert("L").point(lambda level: 255 * (level < 90)).getbbox()
            assert dark is not None
            x, y = (dark[0] + dark[2]) / 2 / size[0], (dark[1] + dark[3]) / 2 / size[1]
            wanted = {"left": x < 0.35, "right": x > 0.65, "top": y < 0.35, "bottom": y > 0.65}
            middle = 0.35 < x < 0.65 and 0.35 < y < 0.65
            assert wanted.get(place, middle)
            assert sum(wanted.values()) == (place != "middle")


def test_groups_do_not_cover_each_other() -> None:
    """Each group drawn by itself in the same room shows nothing where another one does."""
    for scene in (s for s in some_scenes(150) if len(s.groups) > 1):
        boxes = [scenes.room(scene, group.place) for group in scene.groups]
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            for a0, b0, a1, b1 in boxes[:i]:
                assert x0 >= a1 or a0 >= x1 or y0 >= b1 or b0 >= y1


# Questions and answers


def test_descriptions_are_those_of_the_scene() -> None:
    assert picture_corpus.description(TWO, "en") == "A red circle on the left and two orange stars on the right."
    assert picture_corpus.description(TWO, "zh") == "左边有一个红色的圆，右边有两个橙色的星星。"
    for scene in some_scenes(200):
        for lang in scene_words.LANGS:
            assert captions.is_true(scene, picture_corpus.description(scene, lang))


EN = {word: i for i, word in enumerate(scene_words.COUNTS_EN)} | {"a": 1, "an": 1}
ZH = {word: i for i, word in enumerate(scene_words.COUNTS_ZH)}


def called(text: str, names: dict[str, str]) -> str:
    """The one key of `names` whose value is in the text."""
    (found,) = (key for key, name in names.items() if name in text)
    return found


def same(names: tuple[str, ...]) -> dict[str, str]:
    return {name: name for name in names}


def true_by_hand(scene: Scene, pair: corpus.Pair) -> bool:
    """Judges an answer from question and scene alone, by other means than those that wrote it."""
    zh = pair.lang == "zh"
    shapes = scene_words.SHAPES_ZH if zh else same(scenes.SHAPES)
    colours = scene_words.COLOURS_ZH if zh else same(tuple(scenes.COLOURS))
    places = scene_words.PLACES_ZH if zh else scene_words.PLACES_EN
    counts = {g.shape: g.count for g in scene.groups}
    if pair.kind == "describe":
        return captions.is_true(scene, pair.answer)
    if pair.kind == "there":
        here = [g for g in scene.groups if g.place == called(pair.question, places)]
        return captions.names_all(here, pair.answer) and bool(here) == (pair.answer not in ("Nothing.", "没有东西。"))
    shape = called(pair.question, shapes)
    if pair.kind == "exists":
        there = any(g.shape == shape and colours[g.colour] in pair.question for g in scene.groups)
        return pair.answer == ({True: "有。", False: "没有。"} if zh else {True: "Yes.", False: "No."})[there]
    if pair.kind == "count":
        said = re.search("[没一两三四]", pair.answer) if zh else re.search("no|one|two|three|four", pair.answer)
        return said is not None and (ZH if zh else EN)[said[0]] == counts.get(shape, 0)
    group = next(g for g in scene.groups if g.shape == shape)
    if pair.kind == "colour":
        return called(pair.answer, colours) == group.colour and called(pair.answer, shapes) == shape
    return called(pair.answer, places) == group.place and called(pair.answer, shapes) == shape


@pytest.mark.parametrize("kind", picture_corpus.WEIGHTS)
def test_every_answer_is_true(kind: str) -> None:
    rng = random.Random(5)
    seen = Counter[str]()
    for scene in some_scenes(150, 2):
        for lang in scene_words.LANGS:
            pair = picture_corpus.ask(scene, kind, lang, rng)
            seen[pair.question] += 1
            assert (pair.kind, pair.lang) == (kind, lang)
            assert true_by_hand(scene, pair), (scene, pair)
            assert not re.search("[{}]", pair.question + pair.answer)
    assert len(seen) >= 6


def test_questions_for_what_is_not_there_occur_and_are_answered() -> None:
    rng = random.Random(0)
    answers = Counter(
        picture_corpus.ask(scene, kind, lang, rng).answer
        for scene in some_scenes(100)
        for kind in ("exists", "there", "count")
        for lang in scene_words.LANGS
    )
    for pair in (("Yes.", "No."), ("有。", "没有。")):
        assert 0.3 < answers[pair[0]] / (answers[pair[0]] + answers[pair[1]]) < 0.7
    assert answers["Nothing."] and answers["没有东西。"]
    assert any(answer.startswith("There are no ") for answer in answers)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_corpus.write_corpus(tmp_path_factory.mktemp("corpus"), 300, 4)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_ftx_reads_the_corpus_as_llava_rows(written: Path) -> None:
    registry = load_registry("none")
    source = Files(path=str(written))
    opened = open_set(source, "llava", None, registry)
    lengths = Counter[int]()
    bare = 0
    for record in source.records():
        (conversation,) = opened.format.parse_all(record.value)
        lengths[conversation.learnt_turns] += 1
        bare += not conversation.images
        for name in conversation.images:
            seen = look_at(source.image_folder(record), name)
            assert (seen.width, seen.height) in scenes.SIZES
    assert sum(lengths.values()) == 300
    assert 15 <= bare <= 50
    assert lengths[2] > 60


def test_rows_are_reproducible_and_share_pictures(written: Path, tmp_path: Path) -> None:
    again = picture_corpus.write_corpus(tmp_path / "again", 300, 4)
    assert again.read_bytes() == written.read_bytes()
    pictures = sorted((tmp_path / "again" / "pictures").iterdir())
    assert [p.name for p in pictures] == sorted(p.name for p in (written.parent / "pictures").iterdir())
    assert all(p.read_bytes() == (written.parent / "pictures" / p.name).read_bytes() for p in pictures)
    assert all(p.stat().st_size < 8_000 for p in pictures)
    uses = Counter(row["image"] for row in read(written) if "image" in row)
    assert set(uses.values()) <= {1, 2} and len(uses) == len(pictures)


def test_the_corpus_command_writes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert picture_corpus.main(["--rows", "5", "--out", str(tmp_path / "deep" / "corpus")]) == 0
    assert len(read(tmp_path / "deep" / "corpus" / "rows.jsonl")) == 5
    assert "wrote 5 rows" in capsys.readouterr().out


def test_all_but_a_few_characters_have_a_piece_of_their_own() -> None:
    """The rest is spelt in bytes, three for a character, which the base can both read and write."""
    tokenizer = load_tokenizer(BASE)
    rng = random.Random(0)
    pairs = [picture_corpus.ask_any(scene, rng) for scene in some_scenes(600)]
    texts = [text for pair in pairs for text in (pair.question, pair.answer)]
    texts += [text for asked in captions.QUESTIONS.values() for text in asked]
    texts += [captions.caption(scene, lang) for scene in some_scenes(200, most_kinds=3) for lang in scene_words.LANGS]
    spelt = {char for char in set("".join(texts)) if len(tokenizer.encode_text(char)) > 1}
    assert spelt <= set("两角们让")
    for text in texts:
        assert tokenizer.decode(tokenizer.encode_text(text)) == text


# The new style


def test_captions_are_captions_and_true() -> None:
    assert captions.caption(TWO, "en") == "《A red circle on the left and two orange stars on the right: Hello!》"
    assert captions.caption(TWO, "zh") == "《左边有一个红色的圆，右边有两个橙色的星星：你好！》"
    for scene in some_scenes(300, most_kinds=3):
        for lang in scene_words.LANGS:
            assert captions.is_caption(captions.caption(scene, lang))
            assert captions.is_true(scene, captions.caption(scene, lang))


@pytest.mark.parametrize(
    ("text", "styled", "true"),
    [
        (" 《A red circle on the left and two orange stars on the right: Hello!》\n", True, True),
        ("《A blue circle on the left and two orange stars on the right: Hello!》", True, False),
        ("《A red circle on the left and three orange stars on the right: Hello!》", True, False),
        ("《A red circle on the left: Hello!》", True, False),
        ("《A red circle on the left and two orange stars on the right: Hello! Hello!》", False, True),
        ("《A red circle on the left and two orange stars on the right.》", False, True),
        ("A red circle on the left and two orange stars on the right: Hello!", False, True),
        ("《A red circle on the left and two orange stars on the right: Hello!", False, True),
        ("《左边有一个红色的圆，右边有两个橙色的星星：你好！》", True, True),
        ("《左边有一个红色的圆，右边有两个橙色的星星：Hello!》", False, True),
        ("《左边有一个红色的圆，右边有两个黄色的星星：你好！》", True, False),
        ("《右边有两个橙色的星星，左边有一个红色的圆：你好！》", True, False),
        ("左边有一个红色的圆，右边有两个橙色的星星。", False, True),
        ("A red circle on the left and two orange stars on the right.", False, True),
        ("A red circle on the left and two orange stars on the right and a blue moon.", False, False),
        ("《I see nothing: Hello!》", False, False),
        ("《》", False, False),
        ("", False, False),
    ],
)
def test_style_and_truth_are_judged_apart(text: str, styled: bool, true: bool) -> None:
    assert captions.is_caption(text) == styled
    assert captions.is_true(TWO, text) == true


def test_probes_are_fixed_balanced_and_held_out() -> None:
    held = captions.caption_probes()
    skills = captions.skill_probes()
    assert (len(held), len(skills)) == (12, 30)
    assert held == captions.caption_probes() and skills == captions.skill_probes()
    assert Counter(p.pair.lang for p in held) == {"en": 6, "zh": 6}
    shown = [p.scene for p in (*held, *skills) if p.scene is not None]
    assert len(shown) == 32 and all(scene.held_out for scene in shown)
    assert {p.pair.kind for p in skills} > set(picture_corpus.WEIGHTS)
    assert len({p.file for p in (*held, *skills) if p.file}) == 32
    assert not any(scene.held_out for scene in some_scenes(200))


def test_the_tuning_set_mixes_the_new_style_with_the_old_one(tmp_path: Path) -> None:
    path = captions.write_tuning(tmp_path / "a", 30, 24, 6, seed=0)
    rows = read(path)
    assert captions.write_tuning(tmp_path / "b", 30, 24, 6, seed=0).read_bytes() == path.read_bytes()
    asked = [row["conversations"][0]["value"].removeprefix(picture_corpus.MARK) for row in rows]
    answers = [row["conversations"][1]["value"] for row in rows]
    new = {question for questions in captions.QUESTIONS.values() for question in questions}
    assert [q in new for q in asked] == [a.startswith("《") for a in answers]
    assert Counter(q in new for q in asked) == {True: 30, False: 30}
    assert sum("image" not in row for row in rows) == 6
    plain = {p.pair.question for p in captions.skill_probes() if p.scene is None}
    assert not plain & set(asked)
    for row in rows:
        if "image" in row:
            look_at(path.parent, row["image"])


# The start model


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    build_vision_base.write_start(folder, seed=0)
    return folder


OFFICIAL = json.loads((FIXTURES / "internvl2_layout.json").read_text("utf-8"))


def generic(name: str) -> str:
    return re.sub(r"layers\.\d+\.", "layers.N.", name)


def test_the_start_model_has_the_official_names_and_keys(start: Path) -> None:
    config = json.loads((start / "config.json").read_text("utf-8"))
    code = {"auto_map"}
    for part in ("llm_config", "vision_config"):
        assert config[part].keys() == set(OFFICIAL["config"][part]) - code
    assert config.keys() == set(OFFICIAL["config"]["top"]) - code
    assert {generic(name) for name in Checkpoint.of(start).tensors} == set(map(generic, OFFICIAL["tensors"]))
    ranks = {generic(name): len(shape) for name, shape in OFFICIAL["tensors"].items()}
    for name, info in Checkpoint.of(start).tensors.items():
        assert (len(info.shape), info.dtype) == (ranks[generic(name)], "bfloat16")
    assert {path.name for path in start.iterdir()} == set(OFFICIAL["files"])
    assert json.loads((start / "preprocessor_config.json").read_text()).keys() == set(OFFICIAL["preprocessor"])
    assert sum(path.stat().st_size for path in start.iterdir()) < LARGEST


def test_the_start_models_tensors_fit_its_config(start: Path) -> None:
    config = json.loads((start / "config.json").read_text("utf-8"))
    shapes = {name: info.shape for name, info in Checkpoint.of(start).tensors.items()}
    width = config["vision_config"]["hidden_size"]
    patches = (config["force_image_size"] // config["vision_config"]["patch_size"]) ** 2
    assert shapes["vision_model.embeddings.position_embedding"] == (1, patches + 1, width)
    assert shapes["mlp1.1.weight"] == (config["llm_config"]["hidden_size"], width / config["downsample_ratio"] ** 2)
    assert patches * config["downsample_ratio"] ** 2 == 16
    assert config["vision_config"]["image_size"] == config["force_image_size"] == TILE
    assert width % config["vision_config"]["num_attention_heads"] == 0
    vocabulary = (config["llm_config"]["vocab_size"], config["llm_config"]["hidden_size"])
    for name in ("tok_embeddings", "output"):
        assert next(s for n, s in shapes.items() if n.endswith(f"{name}.weight")) == vocabulary
    layers = {name.split(".")[3] for name in shapes if name.startswith("vision_model.encoder")}
    assert len(layers) == config["vision_config"]["num_hidden_layers"]
    assert shapes["vision_model.encoder.layers.0.mlp.fc1.weight"] == (VISION["intermediate_size"], width)


def test_the_start_models_language_model_is_the_base(start: Path) -> None:
    made, base = load_file(start / "model.safetensors"), load_file(BASE / "model.safetensors")
    for name, tensor in base.items():
        grown = made[f"language_model.{name}"]
        assert torch.equal(grown[: len(tensor)], tensor)
        assert (len(grown) > len(tensor)) == (name in ("model.tok_embeddings.weight", "output.weight"))
    fused = made["language_model.model.layers.0.attention.wqkv.weight"]
    assert set(InternLM2Layout(2, 3).split("model.layers.0.attention.wqkv.weight", fused)) == {
        f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"
    }
    assert all(tensor.isfinite().all() for tensor in made.values())
    assert (made["vision_model.encoder.layers.0.ls1"].float() - 0.1).abs().max() < 1e-3
    again = {**build_vision_base.vision_tensors(192, 0), **build_vision_base.language_tensors(0)}
    assert all(torch.equal(tensor, again[name]) for name, tensor in made.items())


def test_the_added_tokens_are_single_and_the_others_as_before(start: Path) -> None:
    tokenizer, before = load_tokenizer(start, add_bos_token=True), load_tokenizer(BASE, add_bos_token=True)
    assert [tokenizer.special(token) for token in ADDED_TOKENS] == list(range(3584, 3593))
    assert tokenizer.largest_id == 3592
    assert tokenizer.special("<|im_end|>") == before.special("<|im_end|>") == 3582
    marked = tokenizer.hf.encode("<img><IMG_CONTEXT><IMG_CONTEXT></img>你好", add_special_tokens=False)
    assert marked[:4] == [3584, 3586, 3586, 3585] and len(marked) == 6
    text = "Describe the picture. 图里有什么？《两个》"
    assert tokenizer.encode_text(text) == before.encode_text(text)
    assert max(tokenizer.encode_text("<img>")) < 3584
    assert tokenizer.chat_template == before.chat_template
    added = json.loads((start / "added_tokens.json").read_text("utf-8"))
    assert {token: tokenizer.special(token) for token in added} == added and len(added) == 15


def test_the_start_models_language_model_answers_as_the_base_does(start: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        shutil.copyfile(start / name, tmp_path / name)
    config = json.loads((start / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config["llm_config"]), "utf-8")
    head = "language_model."
    tensors = load_file(start / "model.safetensors")
    language = {name.removeprefix(head): tensor for name, tensor in tensors.items() if name.startswith(head)}
    save_file(language, tmp_path / "model.safetensors", metadata={"format": "pt"})
    talk = open_talk(tmp_path, load_registry("none"))
    for probe in corpus.probes()[::8]:
        talk.reset()
        assert corpus.is_right(probe, talk.ask(probe.question, Sampling(max_new_tokens=32)).text)


def test_nothing_in_the_start_model_names_code_or_a_path(start: Path) -> None:
    for path in start.glob("*.json"):
        assert "auto_map" not in path.read_text("utf-8")
        assert str(start.parent) not in path.read_text("utf-8") and str(BASE) not in path.read_text("utf-8")


def test_the_finished_base_is_the_trained_model_with_the_starts_other_files(start: Path, tmp_path: Path) -> None:
    trained, out = tmp_path / "trained", tmp_path / "out"
    trained.mkdir()
    out.mkdir()
    (trained / "generation_config.json").write_text("{}")
    (trained / "ftx.json").write_text("{}")
    build_vision_base.copy_model(start, trained, out)
    assert {path.name for path in out.iterdir()} == {path.name for path in start.iterdir()}
    assert (out / "generation_config.json").read_text() == "{}"
    assert (out / "model.safetensors").read_bytes() == (start / "model.safetensors").read_bytes()


def test_the_settings_of_the_build_are_a_recipe(tmp_path: Path) -> None:
    given = build_vision_base.arguments().parse_args(["--out", str(tmp_path), "--steps", "5"])
    recipe = build_vision_base.settings(tmp_path / "start", tmp_path / "rows.jsonl", tmp_path / "run", given).recipe()
    assert recipe.method == {"name": "full", "vision": "full"}
    assert (recipe.train.max_steps, recipe.family) == (5, {"name": "internvl"})


# The page


class Reader(HTMLParser):
    """Checks that elements close in order; collects texts, pictures, and what could leave the page."""

    VOID = ("meta", "img", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags = Counter[str]()
        self.images: list[dict[str, str | None]] = []
        self.langs: set[str | None] = set()
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        values = dict(attrs)
        assert not {"href", "onclick", "onerror", "onload"} & values.keys()
        self.langs.add(values.get("lang"))
        if tag == "img":
            self.images.append(values)
        if tag not in self.VOID and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


EVIL = "<script>alert(1)</script>\"'&"


def a_page(text: str = "a 图", losses: tuple[float, ...] = (2.0, 1.0, 0.5)) -> str:
    both = page.Titled(text, text)
    png = io.BytesIO()
    scenes.picture(TWO).save(png, "PNG")
    bare = page.Asked(text, [page.Said(text, False, text), page.Said(text, True)], text, lang=text)
    asked = replace(bare, pictures=[png.getvalue()], alt=text)
    blocks = [
        page.table([both], [(both, [text])]),
        page.answers([both, both], [asked, bare]),
        page.curves([page.Line(text, list(enumerate(losses, 1)))]),
        page.settings([(text, text)]),
        page.commands([(text, text)]),
        page.sentences([text]),
    ]
    return page.render(both, both, [page.Block(both, block) for block in blocks])


def test_the_page_is_well_formed_and_self_contained() -> None:
    html = a_page()
    seen = Reader(html)
    assert html.startswith("<!DOCTYPE html>")
    assert "script" not in seen.tags and "link" not in seen.tags and "iframe" not in seen.tags
    assert "http://" not in html and "https://" not in html and "@import" not in html and "url(" not in html
    assert "prefers-color-scheme: dark" in html and 'name="viewport"' in html
    assert {"en", "zh"} <= seen.langs
    (image,) = seen.images
    assert image["alt"] == "a 图"
    head, _, data = str(image["src"]).partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == TWO.size
    assert seen.text.count("right") >= 1 and seen.text.count("wrong") >= 1
    assert a_page() == html


def test_every_text_of_the_page_is_escaped() -> None:
    html = a_page(EVIL)
    seen = Reader(html)
    assert seen.tags["script"] == 0 and "<script" not in html
    assert seen.images[0]["alt"] == EVIL
    assert seen.text.count("alert(1)") >= 14


@pytest.mark.parametrize("losses", [(), (1.0,), (0.0, 0.0), tuple(1 / (i + 1) for i in range(300))])
def test_the_curve_stands_for_any_number_of_losses(losses: tuple[float, ...]) -> None:
    html = a_page(losses=losses)
    points = re.findall(r'points="([^"]*)"', html)
    assert len(points) == bool(losses)
    for x, y in (point.split(",") for line in points for point in line.split()):
        assert 0 <= float(x) <= 720 and 0 <= float(y) <= 240
    assert Reader(html).tags["svg"] == bool(losses)


# The run and the command


def answers(text: str | None, stopped: bool = True) -> picture_run.Answers:
    """All right where `text` is None."""
    said = [
        [Answer(probe.pair.answer if text is None else text, stopped, 1) for probe in probes]
        for probes in (captions.caption_probes(), captions.skill_probes())
    ]
    return picture_run.Answers(*said)


def test_a_run_is_proven_by_its_answers() -> None:
    assert (answers(None).styled, answers(None).true, answers(None).right, answers(None).stopped) == (1, 1, 1, 1)
    old = replace(answers("?"), skills=answers(None).skills)
    run = picture_run.PictureRun(Path(), old, answers(None), [1.0], Artifact(Path(), {}))
    run.prove()
    with pytest.raises(VerificationError) as caught:
        replace(run, after=answers("?", stopped=False)).prove()
    assert len(caught.value.problems) == 4
    with pytest.raises(VerificationError, match="other questions are answered right, 100% before"):
        replace(run, after=replace(answers(None), skills=answers("?").skills)).prove()


def test_the_page_of_a_run_shows_all_probes(tmp_path: Path) -> None:
    picture_run.write_probes(tmp_path / "probes")
    recipe = picture_run.recipe_text(tmp_path, "lora", tmp_path / "data" / "rows.jsonl")
    (tmp_path / "recipe.yaml").write_text(recipe, "utf-8")
    run = picture_run.PictureRun(
        tmp_path, answers(EVIL), answers(None), [2.0, 0.1], Artifact(tmp_path / "run" / "merged", {})
    )
    shown = picture_report.show(run, Console(quiet=True))
    seen = Reader(shown.read_text("utf-8"))
    assert len(seen.images) == 32
    assert all(image["alt"] for image in seen.images)
    for probe in (*captions.caption_probes(), *captions.skill_probes()):
        assert probe.pair.question in seen.text and probe.pair.answer in seen.text
    assert "{name: lora, rank: 16, dropout: 0.0, projector: frozen}" in seen.text
    assert shown.stat().st_size < 400_000


def test_the_recipe_of_the_run_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for method in ("lora", "full"):
        path.write_text(picture_run.recipe_text(tmp_path, method, tmp_path / "da'ta\" 图" / "rows.jsonl"), "utf-8")
        recipe = read_recipe(path, {}).recipe()
        assert recipe.data.sets[0].path == str(tmp_path / "da'ta\" 图" / "rows.jsonl")
        assert (recipe.data.sets[0].format, recipe.method["name"]) == ("llava", method)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--plugin", "internvi"], "--plugin: 'internvi' has no quickstart; did you mean 'internvl'?"),
        (["--plugin", "internvl", "--name", "Ada"], "--name goes with --plugin internlm2"),
    ],
)
def test_quickstart_refuses_in_one_sentence(flags: list[str], sentence: str, ftx: Any) -> None:
    result = ftx("quickstart", *flags)
    assert result.code == 2
    assert sentence in result.err and "Traceback" not in result.err
    assert not Path("runs").exists()


def test_without_the_vision_base_quickstart_says_so(ftx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_run, "BASE", tmp_path / "none")
    result = ftx("quickstart", "--plugin", "internvl")
    assert result.code == 2
    assert result.err.startswith("ftx: --plugin: this installation has no tiny vision model for internvl")
    assert len(result.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_the_vision_base_is_small_and_stands_alone() -> None:
    files = [path for path in picture_run.BASE.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12_000_000
    told = (picture_run.BASE / "config.json").read_text("utf-8")
    assert "auto_map" not in told and str(Path.home()) not in told


def test_a_short_second_quickstart_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows teach little: what is asked, trained, merged and shown is real all the same."""
    from ftx.console import Console
    from ftx.errors import VerificationError
    from ftx.plugins import load_registry
    from ftx_quickstart import picture_report

    for name in ("CAPTION_ROWS", "REPLAY_ROWS", "PLAIN_ROWS"):
        monkeypatch.setattr(picture_run, name, 6)
    asked, known = captions.caption_probes()[:3], captions.skill_probes()[:2]
    for module in (picture_run, picture_report):
        monkeypatch.setattr(module, "caption_probes", lambda: asked)
        monkeypatch.setattr(module, "skill_probes", lambda: known)
    result = picture_run.picture_run(load_registry("none"), tmp_path / "run", "lora", Console(quiet=True))
    assert result.before.styled == 0 and result.before.right == 1
    assert len(result.losses) == 5
    assert result.merged.kind == "merged"
    with pytest.raises(VerificationError, match="in the new style"):
        result.prove()
    shown = picture_report.show(result, Console(quiet=True)).read_text("utf-8")
    assert shown.count("data:image/png;base64,") == 5
    assert all(answer.text in html.unescape(shown) for answer in (*result.before.captions, *result.after.captions))
