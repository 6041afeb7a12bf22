"""What is rendered for hubs, word for word, and held against what the hubs themselves ask of it.

FTX_WRITE_RENDERED=1 writes the files of tests/golden/rendered anew; look at the difference before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftx import AppModel
from ftx.artifact import Artifact
from ftx.export.receipt import Probed, Receipt
from ftx.plan import configured
from ftx.plugins import load_registry
from ftx.publish import card
from ftx.publish.licence import Licence
from ftx_openxlab.publisher import metafile

KEPT = Path(__file__).parent / "golden" / "rendered"
REGISTRY = load_registry("none")
TEMPLATES = {name: part for name, part in REGISTRY.parts["app"].items() if name != "strange"}
EVERYWHERE = [(name, target) for name, part in TEMPLATES.items() for target in part.targets]  # type: ignore[attr-defined]
WRITTEN = ("README.md", "requirements.txt", "packages.txt", "Dockerfile", "settings.json")
PUBLISHERS = ("huggingface", "modelscope", "openxlab")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# The hub's own lists, of its page on Spaces' configuration (2026-08-22) and of POST /api/validate-yaml as recorded.
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
SPACE_KEYS = {
    *("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "app_port"),
    *("models", "license"),
}
STUDIO_KEYS = {"domain", "tags", "license", "deployspec", "models"}
DOMAINS = {"cv", "nlp", "audio", "multi-modal", "AutoML"}
ZERO_GPU_TORCH = {"2.8.0", "2.9.1", "2.10.0", "2.11.0"}


def same_as_kept(name: str, text: str) -> None:
    path = KEPT / name
    if os.environ.get("FTX_WRITE_RENDERED"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8"), f"{name} is rendered otherwise than it was"


def head_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def rendered(name: str, target: str, folder: Path, **options: Any) -> Path:
    """The template for a target, as its files of fixed content are not."""
    out = folder / "app"
    out.mkdir()
    documents = folder / "documents"
    documents.mkdir()
    (documents / "snow.md").write_text("# Snow\n\nIt is white.\n", "utf-8")
    more = {"documents": str(documents)} if name == "gradio_rag" else {}
    sees = name == "gradio_vision"
    given = {"title": "Cats: 猫", "description": "About cats.", **more, **options}
    about = AppModel(out / "model", "internvl" if sees else "llama", sees, "apache-2.0")
    configured(REGISTRY.app(name), given, "app").render(about, target, out)
    return out


@pytest.mark.parametrize(("name", "target"), EVERYWHERE)
def test_every_project(name: str, target: str, tmp_path: Path) -> None:
    out = rendered(name, target, tmp_path)
    parts = [f"===== {file}\n{(out / file).read_text('utf-8').rstrip()}\n" for file in WRITTEN]
    same_as_kept(f"{name}-{target}.txt", "\n".join(parts))


@pytest.mark.parametrize(("name", "target"), [one for one in EVERYWHERE if one[1].startswith("huggingface")])
@pytest.mark.parametrize("hub", ["huggingface", "modelscope"])
def test_spaces_are_as_the_hub_reads_them(name: str, target: str, hub: str, tmp_path: Path) -> None:
    from huggingface_hub import SpaceCard
    from huggingface_hub.utils import validate_repo_id

    pulled = {"model_repo": "ann/cats", "model_revision": COMMIT, "model_hub": hub}
    out = rendered(name, target, tmp_path, **pulled)
    text = (out / "README.md").read_text("utf-8")
    read = SpaceCard(text)
    assert read.data.to_dict() == head_of(text)
    head = head_of(text)
    assert set(head) <= SPACE_KEYS
    assert {head["colorFrom"], head["colorTo"]} <= COLOURS
    assert head["sdk"] == ("gradio" if target == "huggingface" else "docker")
    assert head.get("models", []) == (["ann/cats"] if hub == "huggingface" else [])
    for repo in head.get("models", []):
        validate_repo_id(repo)
    pins = dict(line.split("==") for line in (out / "requirements.txt").read_text("utf-8").splitlines())
    if target == "huggingface":
        assert (head["sdk_version"], head["python_version"]) == (pins["gradio"], "3.12")
        assert pins["torch"] in ZERO_GPU_TORCH and (out / head["app_file"]).is_file()
    else:
        assert f"EXPOSE {head['app_port']}" in (out / "Dockerfile").read_text("utf-8")


@pytest.mark.parametrize("name", [name for name, target in EVERYWHERE if target == "modelscope"])
def test_studios_are_as_the_hub_reads_them(name: str, tmp_path: Path) -> None:
    out = rendered(name, "modelscope", tmp_path)
    head = head_of((out / "README.md").read_text("utf-8"))
    assert set(head) <= STUDIO_KEYS and set(head["domain"]) <= DOMAINS
    assert (out / head["deployspec"]["entry_file"]).is_file()


@pytest.mark.parametrize("name", [name for name, target in EVERYWHERE if target == "openxlab"])
def test_openxlab_gets_what_its_image_has(name: str, tmp_path: Path) -> None:
    out = rendered(name, "openxlab", tmp_path)
    pins = dict(line.split("==") for line in (out / "requirements.txt").read_text("utf-8").splitlines())
    assert (pins["transformers"], pins["torch"]) == ("4.57.6", "2.6.0")
    assert {"git", "git-lfs"} <= set((out / "packages.txt").read_text("utf-8").split())
    assert yaml.safe_load((out / "settings.json").read_text("utf-8"))["port"] == 7860


def artifact(folder: Path, kind: str) -> Artifact:
    """One whose facts never change."""
    plan = {
        "model": {"parameters": 1_889_110_016, "dtype": "bfloat16"},
        "method": {"name": "lora", "rank": 16, "alpha": 32.0, "produces": "adapter"},
        "template": {"name": "internlm2"},
        "train": {"steps": 120, "lr": 2e-4, "global_batch_size": 16, "seed": 0, "dtype": "bfloat16"},
        "data": {"sets": [{"source": {"name": "huggingface", "repo": "ann/cat-talk"}}, {"source": {"name": "files"}}]},
    }
    manifest = {
        "kind": kind,
        "versions": {"ftx": "0.1.0"},
        "base": {"path": str(folder / "base")},
        "plan": plan,
        "rows": {"kept": 480},
        "data": ["9f" * 32],
        "metrics": {"first_loss": 2.71828, "last_loss": 0.5772156},
    }
    return Artifact(folder, manifest)


RECEIPT = Receipt(
    "ab" * 32,
    True,
    "2026-11-22T00:00:00Z",
    48,
    [Probed("你是谁?", None, None, [1, 2], "我是猫的小助手。", True)],
    [{"form": "adapter", "passed": True, "problems": [], "max_logit_difference": 0.0}],
)


@pytest.mark.parametrize("licence", ["apache-2.0", "other"])
@pytest.mark.parametrize("kind", ["adapter", "merged"])
@pytest.mark.parametrize("hub", PUBLISHERS)
def test_every_card(hub: str, kind: str, licence: str, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard
    from huggingface_hub.utils import validate_repo_id

    base = {"license_name": "internlm", "license_link": "https://example.org/LICENSE"}
    one = artifact(tmp_path, kind)
    front = card.head(one, "internlm/internlm2-chat-1_8b", Licence(licence, licence, False), base)
    publisher = REGISTRY.publisher(hub)()
    text = card.card_text(publisher.front_matter(front), one, "ann/cats", RECEIPT)
    same_as_kept(f"card-{hub}-{kind}-{licence}.md", text)
    assert ModelCard(text).data.to_dict() == head_of(text)
    head = head_of(text)
    validate_repo_id(head["base_model"])
    assert head["base_model_relation"] == {"adapter": "adapter", "merged": "finetune"}[kind]
    if hub == "modelscope":
        names = pytest.importorskip("modelscope_hub.api")._LICENSE_DISPLAY_TO_SPDX
        assert names.get(head["license"], head["license"]) == licence
        assert {"tasks", "frameworks"} <= set(head)
    else:
        assert head["datasets"] == ["ann/cat-talk"]
        assert [validate_repo_id(repo) for repo in head["datasets"]] == [None]
        assert (head["library_name"], head["pipeline_tag"]) == (card.LIBRARY[kind], "text-generation")
        assert set(base) <= set(head) if licence == "other" else not set(base) & set(head)


def test_the_metafile(tmp_path: Path) -> None:
    """What OpenXLab's own parser takes too: test_openxlab_client makes a repository of one."""
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n", "utf-8")
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").touch()
    found = metafile("ann/cats", "https://code.openxlab.org.cn/ann/cats.git", tmp_path)
    same_as_kept("metafile.yml", yaml.safe_dump(found, allow_unicode=True, sort_keys=False))
    for collection in found["Collections"]:
        assert all(collection[key] for key in ("Name", "License", "Code")) and collection["Code"]["URL"]
    for model in found["Models"]:
        assert all(model[key] for key in ("Name", "Results", "Weights"))
    assert len({model["Name"] for model in found["Models"]}) == 2
