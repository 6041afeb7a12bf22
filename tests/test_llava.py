"""LLaVA: both stages of its training, what each method trains, folders that do not fit, and exports."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from conftest import FIXTURES, TINY
from ftx import ModelError
from ftx.data.template import IMAGE_ID
from ftx.plan import make_plan
from ftx.plugins import load_registry
from ftx.recipe import Written
from ftx.talk import Sampling, open_talk
from ftx_llava.family import LLaVA
from ftx_llava.images import Prepared, on_square

GOLDEN = FIXTURES / "golden"
CLIP, LLAMA = GOLDEN / "clip_tiny", GOLDEN / "llama_tiny"
XTUNER, OFFICIAL, HUB = GOLDEN / "llava_llama" / "llava", GOLDEN / "llava_llama_official", GOLDEN / "llava_llama_hf"
PLACES = 16
NEW = LLaVA(vision_tower=str(CLIP))


def picture(path: Path, colour: str, size: tuple[int, int] = (40, 30)) -> str:
    Image.new("RGB", size, colour).save(path)
    return path.name


@pytest.fixture
def pictured(tmp_path: Path) -> Path:
    """Rows of pictures and of text, in turn."""
    names = {colour: picture(tmp_path / f"{colour}.png", colour) for colour in ("red", "blue")}
    rows = []
    for i in range(6):
        colour = ("red", "blue")[i % 2]
        seen = {"image": names[colour]} if i < 4 else {}
        asked = "<image>\nWhich colour?" if i < 4 else "Who are you?"
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": f"It is {colour}." if i < 4 else "Me."}]
        rows.append({**seen, "conversations": turns})
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def train(ftx: Any, model: Path, data: Path, out: Path, method: str, *more: object) -> list[float]:
    """The losses of a short run."""
    flags = ["--plugin", "llava", "--model", model, "--data", data, "--format", "llava", "--method", method]
    result = ftx("train", *flags, "--global-batch-size", 6, "--out", out, "--json", *more)
    assert result.code == 0, result.err
    return [event["loss"] for event in result.events if event["event"] == "step"]


def whole_llava(out: Path, language: Path = TINY) -> Path:
    """A LLaVA in XTuner's whole layout with a projector that nobody has trained."""
    out.mkdir()
    NEW.convert(language, "xtuner", out)
    return out


def test_both_stages_and_a_chat_with_a_picture(ftx: Any, pictured: Path, tmp_path: Path) -> None:
    tower = ("--set", f"family.vision_tower={CLIP}")
    first = train(ftx, TINY, pictured, tmp_path / "one", "projector", *tower, "--max-steps", 4)
    assert first[-1] < first[0]
    assert ftx("merge", tmp_path / "one").code == 0
    merged = tmp_path / "one" / "merged"
    before, after = LLaVA(vision_tower=str(CLIP)).checkpoint(TINY), LLaVA().checkpoint(merged)
    assert before.tensors == after.tensors
    second = train(
        ftx, merged, pictured, tmp_path / "two", "lora", "--set", "method.vision=lora", "--max-steps", 8, "--lr", 1e-2
    )
    assert second[-1] < second[0] - 1
    assert ftx("merge", tmp_path / "two").code == 0
    talk = open_talk(tmp_path / "two" / "merged", load_registry("none"))
    answers = [
        talk.ask("Which colour?", Sampling(max_new_tokens=6), images=[tmp_path / f"{colour}.png"]).text
        for colour in ("red", "blue")
    ]
    assert all(answers)
    unmerged = open_talk(tmp_path / "two" / "adapter", load_registry("none"))
    assert unmerged.ask("Which colour?", Sampling(6), images=[tmp_path / "red.png"]).text == answers[0]


def test_a_merged_folder_stands_alone(ftx: Any, pictured: Path, tmp_path: Path) -> None:
    """Tower and language model may go; the result names nothing outside but where it came from."""
    shutil.copytree(TINY, tmp_path / "language")
    shutil.copytree(CLIP, tmp_path / "tower")
    tower = ("--set", "family.vision_tower=tower")
    train(ftx, tmp_path / "language", pictured, tmp_path / "run", "projector", *tower, "--max-steps", 1)
    assert ftx("merge", tmp_path / "run").code == 0
    shutil.move(tmp_path / "run" / "merged", tmp_path / "alone")
    shutil.rmtree(tmp_path / "language")
    shutil.rmtree(tmp_path / "tower")
    for path in (tmp_path / "alone").rglob("*"):
        if path.is_file() and path.name != "ftx.json":
            assert str(tmp_path).encode() not in path.read_bytes(), path
    assert open_talk(tmp_path / "alone", load_registry("none")).ask("Hello?", Sampling(2), None).tokens
    (plan,) = ftx(
        "plan", "--plugin", "llava", "--model", tmp_path / "alone", "--data", pictured, *tower, "--json"
    ).events
    assert any("family.vision_tower is not read" in note for note in plan["notes"])


@pytest.mark.parametrize("method", ["qlora", "full"])
def test_other_methods_learn(method: str, ftx: Any, pictured: Path, tmp_path: Path) -> None:
    vision = "full" if method == "full" else "lora"
    head = ("--set", "method.quantize_head=true") if method == "qlora" else ()
    options = (*head, "--set", f"method.vision={vision}", "--max-steps", 4, "--lr", 1e-3 if method == "full" else 1e-2)
    losses = train(ftx, whole_llava(tmp_path / "base"), pictured, tmp_path / "run", method, *options)
    assert losses[-1] < losses[0] - 0.3
    if method == "qlora":
        assert ftx("merge", tmp_path / "run").code == 0
    kind = "model" if method == "full" else "merged"
    before, after = (LLaVA().checkpoint(place).tensors for place in (tmp_path / "base", tmp_path / "run" / kind))
    assert before == after


def test_full_tuning_of_a_new_llava_writes_it_whole(ftx: Any, pictured: Path, tmp_path: Path) -> None:
    tower = ("--set", f"family.vision_tower={CLIP}")
    flags = (*tower, "--max-steps", 2, "--set", "train.save_every=1")
    losses = train(ftx, LLAMA, pictured, tmp_path / "run", "full", *flags)
    model = tmp_path / "run" / "model"
    LLaVA().inspect(model)
    tuned, clip = load_file(model / "visual_encoder" / "model.safetensors"), load_file(CLIP / "model.safetensors")
    assert tuned.keys() == clip.keys()
    assert all(torch.equal(tuned[name], clip[name]) for name in clip)  # frozen unless asked for
    assert train(ftx, LLAMA, pictured, tmp_path / "run", "full", *flags, "--resume", "auto") == losses[1:]


LANGUAGE, TOWER, PROJECTOR = "model.language_model.", "model.vision_tower.", "model.multi_modal_projector."
TRAINED = {
    ("projector", ""): {PROJECTOR},
    ("lora", ""): {LANGUAGE, PROJECTOR},
    ("lora", "projector=frozen"): {LANGUAGE},
    ("lora", "vision=lora"): {LANGUAGE, TOWER, PROJECTOR},
    ("lora", "vision=full"): {LANGUAGE, TOWER, PROJECTOR},
    ("full", ""): {LANGUAGE, PROJECTOR, "lm_head."},
    ("full", "projector=frozen"): {LANGUAGE, "lm_head."},
    ("full", "vision=full"): {LANGUAGE, TOWER, PROJECTOR, "lm_head."},
}


def prepared(method: str, option: str) -> Any:
    """A new LLaVA as the method makes it ready for training."""
    key, _, value = option.partition("=")
    part = load_registry("none").method(method)(**({key: value} if key else {}))
    model = NEW.load(LLAMA, dtype=torch.float32, device="cpu", attention="sdpa")
    return part.prepare(model, NEW, None)


def prefixes(names: Iterable[str]) -> set[str]:
    known = (LANGUAGE, TOWER, PROJECTOR, "lm_head.")
    plain = [name.removeprefix("base_model.model.") for name in names]
    return {next(prefix for prefix in known if name.startswith(prefix)) for name in plain}


@pytest.mark.parametrize(("method", "option"), TRAINED)
@pytest.mark.parametrize("seen", [True, False], ids=["picture", "text"])
def test_gradients_reach_what_is_trained(method: str, option: str, seen: bool) -> None:
    """Every trained parameter has one, with pictures or without; only those that compute something are moved."""
    model = prepared(method, option)
    ids = torch.tensor([[1, *[IMAGE_ID] * PLACES, 7, 8, 9]]) if seen else torch.tensor([[1, 7, 8, 9]])
    batch = {"input_ids": ids, **({"pixel_values": torch.rand(1, 3, 56, 56)} if seen else {})}
    torch.nn.functional.cross_entropy(model(**batch).logits[0, :-1], torch.arange(ids.shape[1] - 1)).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert prefixes(trained) == TRAINED[method, option]
    assert all(p.grad is not None for p in trained.values())
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    moved = {name for name, p in trained.items() if p.grad.any()}
    reached = TRAINED[method, option] if seen else TRAINED[method, option] - {TOWER, PROJECTOR}
    if reached:
        assert prefixes(moved) == reached
    else:
        assert not moved
    # The last layer and the norm after it lie behind the hidden states that are projected.
    assert not any(TOWER in name and (".layers.2." in name or "post_layernorm" in name) for name in moved)


def test_packed_rows_do_not_see_each_other(ftx: Any, pictured: Path, tmp_path: Path) -> None:
    base = whole_llava(tmp_path / "base")
    losses = [
        train(ftx, base, pictured, tmp_path / packing, "lora", "--packing", packing, "--max-length", 128, *more)
        for packing in ("none", "best_fit")
        for more in [("--max-steps", 1)]
    ]
    assert losses[0] == pytest.approx(losses[1], abs=2e-6)


def test_a_new_projector_is_the_same_every_time() -> None:
    first, second = (NEW.load(TINY, dtype=torch.float32, device="cpu", attention="sdpa") for _ in range(2))
    ours, theirs = (dict(model.model.multi_modal_projector.named_parameters()) for model in (first, second))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert 0.1 < float(ours["linear_1.weight"].detach().abs().max()) <= 32**-0.5
    assert NEW.fingerprint(TINY) == LLaVA(vision_tower=str(CLIP)).fingerprint(TINY) != LLaVA().fingerprint(OFFICIAL)


def changed(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


def copied(source: Path, out: Path) -> Path:
    shutil.copytree(source, out)
    return out


def rewritten(path: Path, change: Any) -> None:
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def without(folder: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(folder / name)


def narrow(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: t[..., :24].clone() if t.ndim == 2 and name == "model.0.weight" else t for name, t in tensors.items()}


def wide(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([t, t]) for name, t in tensors.items()}


BAD: dict[str, tuple[Any, str]] = {
    "no projector": (lambda f: without(f, "projector"), "has no projector/: it is no whole LLaVA"),
    "no tower": (
        lambda f: without(f, "visual_encoder"),
        "names 'visual_encoder' as its vision tower, which is no folder here",
    ),
    "no tower named": (
        lambda f: [without(f, "visual_encoder"), (f / "xtuner_config.py").unlink()],
        "holds no vision tower and names none; give its folder with --set family.vision_tower=FOLDER",
    ),
    "no language model": (
        lambda f: [(f / "config.json").unlink(), (f / "xtuner_config.py").unlink()],
        "holds no language model and names none; give its folder with --set family.language_model=FOLDER",
    ),
    "projector for another tower": (
        lambda f: rewritten(f / "projector" / "model.safetensors", narrow),
        "the projector takes features of width 24, but the vision tower gives 32",
    ),
    "projector for another language model": (
        lambda f: rewritten(f / "projector" / "model.safetensors", wide),
        "the projector gives features of width 96, but the language model takes 48",
    ),
    "deeper projector": (lambda f: changed(f / "projector", "config.json", depth=3), "depth: Input should be 2"),
    "half a projector": (
        lambda f: rewritten(f / "projector" / "model.safetensors", lambda t: {n: t[n] for n in t if "bias" not in n}),
        "lacks 2 weights of the projector",
    ),
    "tower of another depth": (
        lambda f: changed(f / "visual_encoder", "config.json", num_hidden_layers=2),
        "holds 16 weights that its vision tower has not, such as visual_encoder/vision_model.encoder.layers.2.",
    ),
    "tower of another width": (
        lambda f: changed(f / "visual_encoder", "config.json", intermediate_size=96),
        "of the vision tower has shape (64",
    ),
    "tower that is none": (
        lambda f: changed(f / "visual_encoder", "config.json", model_type="vit"),
        "'vit' is no CLIP or SigLIP vision tower",
    ),
    "language model that is none": (
        lambda f: changed(f, "config.json", model_type="vit"),
        "'vit' is neither internlm2 nor a language model that transformers has",
    ),
    "quantised": (lambda f: changed(f, "config.json", quantization_config={}), "the language model is quantised"),
    "logits behind the head": (
        lambda f: changed(f, "config.json", final_logit_softcapping=30.0),
        "final_logit_softcapping changes logits behind the head",
    ),
    "config that is no Python": (
        lambda f: (f / "xtuner_config.py").write_text("model = ("),
        "xtuner_config.py cannot be read",
    ),
    "layer that is not there": (
        lambda f: (f / "xtuner_config.py").write_text("model = dict(visual_select_layer=-9)"),
        "layer -9 is none of the vision tower's",
    ),
}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_llava(tmp_path_factory.mktemp("whole") / "llava", LLAMA)


@pytest.mark.parametrize("name", BAD)
def test_a_folder_that_does_not_fit_is_refused(name: str, llava: Path, tmp_path: Path) -> None:
    spoil, sentence = BAD[name]
    folder = copied(llava, tmp_path / "llava")
    spoil(folder)
    with pytest.raises(ModelError) as caught:
        LLaVA().inspect(folder)
    assert sentence in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_missing_base_names_its_option(ftx: Any, pictured: Path) -> None:
    """XTuner's config names folders of the machine that it was written on."""
    flags = ["--plugin", "llava", "--model", XTUNER, "--data", pictured]
    told = " ".join(ftx("plan", *flags).err.split())
    assert "names 'LLM_DIR' as its language model, which is no folder here" in told
    assert "--set family.language_model=FOLDER" in told
    told = " ".join(ftx("plan", *flags, "--set", "family.language_model=nowhere").err.split())
    assert "family.language_model:" in told and "nowhere is no folder" in told
    assert ftx("plan", *flags[:2], "--model", LLAMA, *flags[4:]).code == 2
    assert (
        ftx("plan", *flags, "--set", f"family.language_model={LLAMA}", "--set", f"family.vision_tower={CLIP}").code == 0
    )


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tunes model\.layers\.0\.mlp\.down_proj\.weight, which .* does not have"):
        LLaVA(language_model=str(TINY), vision_tower=str(CLIP)).inspect(XTUNER)
    other = copied(LLAMA, tmp_path / "other")
    rewritten(
        other / "model.safetensors", lambda t: {n: torch.cat([x, x]) if "gate_proj" in n else x for n, x in t.items()}
    )
    with pytest.raises(ModelError, match=r"another size than .*: it is another model's"):
        LLaVA(language_model=str(other), vision_tower=str(CLIP)).inspect(XTUNER)


def test_an_xtuner_config_is_never_executed(tmp_path: Path) -> None:
    folder = copied(XTUNER, tmp_path / "llava")
    text = (folder / "xtuner_config.py").read_text("utf-8").replace("'LLM_DIR'", f"'{LLAMA}'")
    text = text.replace("'CLIP_DIR'", f"'{CLIP}'") + "\nopen('executed', 'w')\nraise SystemExit\n"
    (folder / "xtuner_config.py").write_text(text, "utf-8")
    assert LLaVA().inspect(folder).vocab_size == 470
    assert not (tmp_path / "executed").exists()


def test_bases_beside_the_folder_are_found(tmp_path: Path) -> None:
    """Paths in a folder's files start from the folder."""
    folder = copied(XTUNER, tmp_path / "llava")
    for name, base in (("llm_adapter", LLAMA), ("visual_encoder_adapter", CLIP)):
        copied(base, tmp_path / base.name)
        changed(folder / name, "adapter_config.json", base_model_name_or_path=f"../{base.name}")
    named = LLaVA(language_model=str(LLAMA), vision_tower=str(CLIP))
    assert LLaVA().fingerprint(folder) == named.fingerprint(XTUNER)


def test_files_of_torch_are_read_too(tmp_path: Path) -> None:
    """As XTuner writes them by default."""
    folder = copied(XTUNER, tmp_path / "llava")
    for path in folder.rglob("*.safetensors"):
        stem = "pytorch_model" if path.stem == "model" else path.stem
        torch.save(load_file(path), path.with_name(f"{stem}.bin"))
        path.unlink()
    family = LLaVA(language_model=str(LLAMA), vision_tower=str(CLIP))
    family.inspect(folder)
    ours, theirs = (
        family.load(place, dtype=torch.float32, device="cpu", attention="sdpa").state_dict()
        for place in (folder, XTUNER)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_tower_is_taken_out_of_a_whole_clip(tmp_path: Path) -> None:
    """As openai/clip-vit-large-patch14-336 is stored: with a text tower and a buffer that is computed."""
    tower = copied(CLIP, tmp_path / "clip")
    config = json.loads((tower / "config.json").read_text("utf-8"))
    (tower / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": config, "text_config": {}}))
    extra = {"text_model.x": torch.zeros(2), "logit_scale": torch.ones(1)}
    extra["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    rewritten(tower / "model.safetensors", lambda tensors: {**tensors, **extra})
    family = LLaVA(vision_tower=str(tower))
    assert family.inspect(TINY) == NEW.inspect(TINY)
    (tmp_path / "out").mkdir()
    family.convert(TINY, "xtuner", tmp_path / "out")
    assert LLaVA().inspect(tmp_path / "out").parameters == NEW.inspect(TINY).parameters
    assert json.loads((tmp_path / "out/visual_encoder/config.json").read_text())["model_type"] == "clip_vision_model"


def test_an_official_folder_without_its_tower(tmp_path: Path) -> None:
    """As liuhaotian/llava-v1.5-7b is stored: the tower is named as a hub's repository."""
    folder = copied(OFFICIAL, tmp_path / "official")
    changed(folder, "config.json", mm_vision_tower="openai/clip", model_type="llava")
    rewritten(
        folder / "model.safetensors", lambda tensors: {n: t for n, t in tensors.items() if "vision_tower" not in n}
    )
    with pytest.raises(ModelError, match="names 'openai/clip' as its vision tower, which is no folder here"):
        LLaVA().inspect(folder)
    assert NEW.inspect(folder).parameters == LLaVA().inspect(OFFICIAL).parameters
    out = tmp_path / "out"
    out.mkdir()
    from ftx.export.weights import export_weights

    model = NEW.load(folder, dtype=torch.float32, device="cpu", attention="sdpa")
    export_weights(model.state_dict(), NEW, folder, out)
    NEW.copy_companions(folder, out)
    assert LLaVA().inspect(out).parameters == LLaVA().inspect(OFFICIAL).parameters
    assert json.loads((out / "config.json").read_text())["mm_vision_tower"] == "openai/clip"
    again = LLaVA().load(out, dtype=torch.float32, device="cpu", attention="sdpa").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


def siglip(folder: Path) -> Path:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=56, patch_size=14)).save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    values = {"size": {"height": 56, "width": 56}, "image_mean": half, "image_std": half, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("layout", ["xtuner", "huggingface"])
def test_a_siglip_tower(layout: str, ftx: Any, pictured: Path, tmp_path: Path) -> None:
    """All its features are taken, there is no CLS, and it has a head of its own, which pictures do not pass."""
    family = LLaVA(vision_tower=str(siglip(tmp_path / "siglip")))
    images = family.image_processor(LLAMA)
    assert images.lay_out([(5, 9)]) == [(IMAGE_ID,) * 16]
    out = tmp_path / "out"
    out.mkdir()
    family.convert(LLAMA, layout, out)
    whole, again = (
        f.load(place, dtype=torch.float32, device="cpu", attention="sdpa")
        for f, place in ((family, LLAMA), (LLaVA(), out))
    )
    pixels = images.pixels([[Image.new("RGB", (30, 50), "green")]])
    assert torch.equal(whole.picture_features(pixels), again.picture_features(pixels))
    assert LLaVA().image_processor(out).key() == images.key()
    with pytest.raises(ModelError, match="the official layout is for CLIP towers"):
        family.convert(LLAMA, "official", tmp_path)
    train(ftx, out, pictured, tmp_path / "run", "full", "--set", "method.vision=full", "--max-steps", 1)


@pytest.mark.parametrize("size", [(90, 50), (50, 91), (56, 56), (57, 200), (13, 13)])
def test_plain_preparation_is_transformers_own(size: tuple[int, int], tmp_path: Path) -> None:
    from transformers import CLIPImageProcessor

    image = Image.effect_noise(size, 90).convert("RGB")
    theirs = CLIPImageProcessor.from_pretrained(str(CLIP))(image, return_tensors="pt").pixel_values
    ours = LLaVA(vision_tower=str(CLIP), pad="none").image_processor(TINY).pixels([[image]])
    assert (ours - theirs).abs().max() <= 1e-6
    square = NEW.image_processor(TINY)
    assert isinstance(square, Prepared)
    padded = on_square(image, square.mean)
    assert padded.size == (max(size),) * 2
    assert torch.equal(
        square.pixels([[image]]), LLaVA(vision_tower=str(CLIP), pad="none").image_processor(TINY).pixels([[padded]])
    )


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}, "28 x 28 pixels, its vision tower"),
        ({"image_mean": "grey"}, "preprocessor_config.json: image_mean"),
        ({"do_normalize": False}, "preprocessor_config.json: do_normalize"),
    ],
)
def test_a_preparation_that_does_not_fit_is_refused(values: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    tower = copied(CLIP, tmp_path / "clip")
    changed(tower, "preprocessor_config.json", **values)
    with pytest.raises(ModelError, match=sentence):
        LLaVA(vision_tower=str(tower)).image_processor(TINY)
    (tower / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"has no preprocessor_config\.json"):
        LLaVA(vision_tower=str(tower)).image_processor(TINY)


def test_names_of_transformers_five_are_read(tmp_path: Path) -> None:
    """As a checkpoint in its newer names has them, whatever the installed version writes."""
    folder = copied(HUB, tmp_path / "hub")
    newer = (
        ("language_model.lm_head.", "lm_head."),
        ("language_model.model.", "model.language_model."),
        ("vision_tower.vision_model.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    )

    def renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {next(b + n.removeprefix(a) for a, b in newer if n.startswith(a)): t for n, t in tensors.items()}

    rewritten(folder / "model.safetensors", renamed)
    LLaVA().inspect(folder)
    ours, theirs = (
        LLaVA().load(place, dtype=torch.float32, device="cpu", attention="sdpa").state_dict() for place in (folder, HUB)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_family_is_found_and_its_options_are_checked(ftx: Any, pictured: Path) -> None:
    for folder in (HUB, OFFICIAL):
        (plan,) = ftx("plan", "--model", folder, "--data", pictured, "--json").events
        assert plan["family"]["name"] == "llava"
        assert plan["template"]["name"] == "vicuna"
    result = ftx("plan", "--model", HUB, "--data", pictured, "--set", "family.pad=round")
    assert result.code == 2 and "family.pad" in result.err
    written = Written()
    written.put_all({"family": {"name": "llava"}, "model": str(HUB), "data": str(pictured)}, "test")
    plan = make_plan(written, load_registry("none"))
    assert [len(plan.feed.samples(0)[0].pictures), len(plan.feed.samples(5)[0].pictures)] == [1, 0]


def test_export_refuses_in_a_sentence(ftx: Any, pictured: Path, tmp_path: Path) -> None:
    def told(*arguments: object) -> str:
        result = ftx("export", *arguments)
        assert result.code == 2
        return " ".join(result.err.split())

    assert "did you mean 'huggingface'?" in told(HUB, "--layout", "hugingface", "--out", tmp_path / "a")
    assert "exists already" in told(HUB, "--layout", "xtuner", "--out", tmp_path)
    assert "does not exist or is no folder" in told(tmp_path / "gone", "--layout", "xtuner", "--out", tmp_path / "a")
    assert "writes no layout but the model's own" in told(
        TINY.parent / "llama_tiny", "--layout", "xtuner", "--out", tmp_path / "a"
    )
    assert "write it as family.a=value" in told(HUB, "--layout", "xtuner", "--out", tmp_path / "a", "--set", "pad=none")
    train(ftx, HUB, pictured, tmp_path / "run", "projector", "--max-steps", 1)
    assert "merge it first" in told(tmp_path / "run", "--layout", "xtuner", "--out", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_exported_result_is_sealed_and_keeps_its_template(ftx: Any, pictured: Path, tmp_path: Path) -> None:
    train(ftx, HUB, pictured, tmp_path / "run", "projector", "--max-steps", 1)
    assert ftx("merge", tmp_path / "run").code == 0
    exported = ftx("export", tmp_path / "run", "--layout", "xtuner", "--out", tmp_path / "out", "--json")
    assert exported.events[-1]["event"] == "exported", exported.err
    manifest = json.loads((tmp_path / "out" / "ftx.json").read_text())
    assert manifest["kind"] == "merged"
    assert manifest["plan"]["template"]["name"] == "vicuna"
    talks = [open_talk(place, load_registry("none")) for place in (tmp_path / "run" / "merged", tmp_path / "out")]
    assert talks[0].stop_ids == talks[1].stop_ids
    answers = [talk.ask("Which colour?", Sampling(4), images=[tmp_path / "red.png"]).text for talk in talks]
    assert answers[0] == answers[1]


def test_chat_and_merge_take_the_familys_options(ftx: Any, pictured: Path, tmp_path: Path) -> None:
    """An XTuner folder is asked as it is, and a tower that has moved since the training is named anew."""
    bases = ("--set", f"family.language_model={LLAMA}", "--set", f"family.vision_tower={CLIP}")
    asked = ("--once", "Which colour?", "--image", tmp_path / "red.png", "--max-new-tokens", 3)
    result = ftx("chat", XTUNER, "--plugin", "llava", *bases, *asked, "--json")
    assert result.code == 0 and result.events[-1]["tokens"] == 3, result.err
    shutil.copytree(CLIP, tmp_path / "tower")
    train(ftx, LLAMA, pictured, tmp_path / "run", "projector", "--set", "family.vision_tower=tower", "--max-steps", 1)
    shutil.move(tmp_path / "tower", tmp_path / "moved")
    assert "family.vision_tower:" in ftx("merge", tmp_path / "run").err
    assert ftx("chat", tmp_path / "run", "--set", "family.vision_tower=moved", *asked).code == 0
    assert ftx("merge", tmp_path / "run", "--set", "family.vision_tower=moved").code == 0
    assert "write it as family.a=value" in ftx("merge", tmp_path / "run", "--set", "pad=none").err


def test_another_language_model_with_a_tied_head(ftx: Any, pictured: Path, tmp_path: Path) -> None:
    from transformers import LlavaForConditionalGeneration

    from test_natives import make

    base = make("qwen2", tmp_path / "qwen2")
    train(ftx, base, pictured, tmp_path / "run", "lora", "--set", f"family.vision_tower={CLIP}", "--max-steps", 1)
    merged = ftx("merge", tmp_path / "run")
    assert merged.code == 0, merged.err
    assert ftx("export", tmp_path / "run", "--layout", "huggingface", "--out", tmp_path / "hf").code == 0
    refused = ftx("export", tmp_path / "run", "--layout", "official", "--out", tmp_path / "official")
    assert "the official layout is for Llama and InternLM2; export huggingface for qwen2" in " ".join(
        refused.err.split()
    )
    ours = LLaVA().load(tmp_path / "run" / "merged", dtype=torch.float32, device="cpu", attention="eager")
    plain = LlavaForConditionalGeneration.from_pretrained(str(tmp_path / "hf"), attn_implementation="eager")
    pixels = torch.rand(1, 3, 56, 56)
    ids = torch.tensor([[1, *[IMAGE_ID] * PLACES, 7, 8, 9]])
    theirs = ids.masked_fill(ids == IMAGE_ID, plain.config.image_token_id)
    logits = plain(input_ids=theirs, pixel_values=pixels).logits[..., :640]
    assert (logits - ours(input_ids=ids, pixel_values=pixels).logits).abs().max() <= 5e-5


def test_a_language_model_in_shards_keeps_them(tmp_path: Path) -> None:
    """And a dynamic rope keeps no state, as in InternLM2 alone."""
    base = copied(GOLDEN / "internlm2_dynamic", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:10], names[10:]), 1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: tensors[name] for name in part}, base / file)
        weight_map |= dict.fromkeys(part, file)
    (base / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    out = whole_llava(tmp_path / "out", base)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors.keys()
    assert sorted(path.name for path in out.glob("*.safetensors")) == [
        f"model-{number:05}-of-00002.safetensors" for number in (1, 2)
    ]
    assert not (out / "projector" / "model.safetensors.index.json").exists()
    model = LLaVA().load(out, dtype=torch.float32, device="cpu", attention="eager")
    with torch.inference_mode():
        before = model(input_ids=torch.arange(5, 15)[None]).logits
        model(input_ids=torch.arange(5, 65)[None])
        assert torch.equal(model(input_ids=torch.arange(5, 15)[None]).logits, before)
