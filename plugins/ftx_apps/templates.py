"""The four templates. Their files lie in ftx.deploy_templates; what is common to all lies in its folder every_app."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from ftx import AppModel, AppTemplate, RecipeError
from ftx.atomic import write_json, write_text
from ftx.templates import template_folder
from ftx_apps.front_matter import front_matter
from ftx_apps.targets import TARGETS, Target

HUBS = ("huggingface", "modelscope", "openxlab")
COMMIT = re.compile(r"[0-9a-f]{40}")
# Tutorial 003's, with a helper of no trade
PROMPT = """\
你是一个根据文档回答问题的小助手，要使用以下上下文来回答用户的问题。如果你不知道答案，就说你不知道。总是使用中文回答。
问题: {question}
可参考的上下文：
···
{context}
···
如果给定的上下文无法让你做出回答，请回答你不知道。
有用的回答:"""
PLACES = {"gitattributes": ".gitattributes", "config.toml": ".streamlit/config.toml"}  # of hidden files
FOR_MODELS = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "jinja2", "numpy", "huggingface_hub")


class Project(AppTemplate):
    """What all templates share: the options of every app, and how its folder is written."""

    folders: ClassVar[tuple[str, ...]]  # of ftx.deploy_templates, later ones over earlier ones
    page: ClassVar[str] = "gradio"
    health: ClassVar[str] = "/health"
    packages: ClassVar[tuple[str, ...]] = ()
    build: ClassVar[tuple[str, ...]] = ()
    entry: ClassVar[str] = "app.py"
    title: str = Field("Chat", min_length=1, description="headline of the page")
    description: str = Field("", description="what stands below it")
    system: str = Field("", description="system message of every conversation; the model's own when empty")
    examples: list[str] = Field(default_factory=list, description="questions to click on")
    max_new_tokens: int = Field(512, ge=1, description="tokens of an answer at most")
    max_characters: int = Field(20_000, ge=1, description="characters of a question at most")
    temperature: float = Field(0.0, ge=0, description="0: greedy, the same answer every time")
    top_p: float = Field(1.0, gt=0, le=1)
    port: int = Field(7860, ge=1, le=65535)
    license: str | None = Field(None, description="the model's licence as hubs name it; default: its card's, or other")
    model_repo: str | None = Field(
        None, description="owner/name on a hub to fetch the model from, instead of carrying it"
    )
    model_revision: str | None = Field(None, description="the commit of model_repo, 40 hexadecimal digits")
    model_hub: str = Field("huggingface", description="huggingface, modelscope or openxlab")

    @field_validator("model_hub")
    @classmethod
    def _known_hub(cls, value: str) -> str:
        if value not in HUBS:
            raise ValueError(f"is none of {', '.join(HUBS)}")
        return value

    @model_validator(mode="after")
    def _pinned(self) -> Project:
        if self.model_repo and not COMMIT.fullmatch(self.model_revision or ""):
            raise ValueError("model_repo goes with model_revision, the commit's 40 hexadecimal digits: a branch moves")
        if self.model_revision and not self.model_repo:
            raise ValueError("model_revision goes with model_repo")
        return self

    def carries_model(self) -> bool:
        return not self.model_repo

    def check(self, target: str) -> None:
        if self.model_repo and self.model_hub == "modelscope" and "modelscope-hub" not in TARGETS[target].versions:
            raise RecipeError(
                f"--set model_hub=modelscope: its client does not run on {target}'s Python {TARGETS[target].python}; "
                "leave model_repo out, so that the app carries the model"
            )

    def render(self, model: AppModel, target: str, out: Path) -> None:
        place = TARGETS[target]
        self._refuse_model(model)
        for folder in self.folders:
            _copy(folder, out)
        if self.model_repo and self.model_hub == "openxlab":
            _copy("openxlab", out)
        values = self._values(model, place)
        for name in ("requirements.txt", "packages.txt", "README.md", "Dockerfile"):
            write_text(out / name, _rendered(name, values))
        write_json(out / "settings.json", {name: values[name] for name in self._settings()})

    def _refuse_model(self, model: AppModel) -> None:
        """Raise RecipeError for a model that the app cannot use."""

    def _settings(self) -> list[str]:
        """Names of the values that the app reads when it runs."""
        return [
            *("title", "description", "system", "examples", "max_new_tokens", "max_characters", "temperature", "top_p"),
            *("host", "port", "model_folder", "model_repo", "model_revision", "model_hub"),
        ]

    def _values(self, model: AppModel, place: Target) -> dict[str, Any]:
        packages = [*FOR_MODELS, *self.packages]
        if self.model_repo and self.model_hub == "modelscope":
            packages.append("modelscope-hub")
        if self.page == "gradio":  # what only some places want
            packages += [name for name in ("pydantic", "spaces") if name in place.versions]
        values = {
            **self.model_dump(),
            "license": self.license or model.license or "other",
            "template": self.name,
            "target": place.name,
            "python": place.python,
            "host": place.host,
            "health": self.health,
            "build": self.build,
            "by_hand": place.by_hand,
            "versions": place.versions,
            "entry": self.entry,
            "sees": model.sees,
            "model_folder": model.folder.name,
            "requirements": sorted(f"{name}=={place.versions[name]}" for name in packages),
        }
        return {**values, "front_matter": front_matter(place.name, self.page, values)}


class GradioChat(Project):
    """A chat in text, with Gradio."""

    name = "gradio_chat"
    targets: ClassVar[tuple[str, ...]] = tuple(TARGETS)
    folders: ClassVar[tuple[str, ...]] = ("every_app", "gradio", "gradio_chat")
    packages: ClassVar[tuple[str, ...]] = ("gradio",)


class GradioVision(Project):
    """A chat about pictures, with Gradio, for InternVL2 models."""

    name = "gradio_vision"
    targets: ClassVar[tuple[str, ...]] = tuple(TARGETS)
    folders: ClassVar[tuple[str, ...]] = ("every_app", "gradio", "gradio_vision")
    packages: ClassVar[tuple[str, ...]] = ("gradio", "pillow")

    def _refuse_model(self, model: AppModel) -> None:
        if not model.sees:
            raise RecipeError("gradio_vision shows pictures, and this model sees none; take gradio_chat")
        if model.model_type != "internvl":
            raise RecipeError(
                f"gradio_vision prepares pictures for InternVL2, and this is a '{model.model_type}' model; take "
                "gradio_chat for its text alone"
            )


class StreamlitChat(Project):
    """A chat in text, with Streamlit."""

    name = "streamlit_chat"
    # Hugging Face runs Streamlit in containers alone.
    targets: ClassVar[tuple[str, ...]] = tuple(name for name in TARGETS if name != "huggingface")
    folders: ClassVar[tuple[str, ...]] = ("every_app", "streamlit_chat")
    page: ClassVar[str] = "streamlit"
    health: ClassVar[str] = "/_stcore/health"
    packages: ClassVar[tuple[str, ...]] = ("streamlit",)

    def _values(self, model: AppModel, place: Target) -> dict[str, Any]:
        values = super()._values(model, place)
        if place.name == "modelscope":  # which runs the page with Streamlit itself
            values["entry"] = "page.py"
            values["front_matter"] = front_matter(place.name, self.page, values)
        return values


class GradioRag(Project):
    """Questions about documents, with Gradio: Chroma finds the passages, the model answers from them."""

    name = "gradio_rag"
    targets: ClassVar[tuple[str, ...]] = tuple(TARGETS)
    folders: ClassVar[tuple[str, ...]] = ("every_app", "gradio", "gradio_rag")
    packages: ClassVar[tuple[str, ...]] = ("gradio", "chromadb")
    build: ClassVar[tuple[str, ...]] = ("python build_index.py",)
    documents: str = Field(description="folder with the documents, .txt and .md")
    encoder: str | None = Field(
        None, description="folder of a sentence encoder for transformers; default: one that counts characters"
    )
    prompt: str = Field(PROMPT, description="what the model is asked, with {question} and {context} in it")
    passages: int = Field(3, ge=1, le=20, description="passages that a question is answered from")
    passage_characters: int = Field(400, ge=50, description="characters of a passage at most")

    @field_validator("prompt")
    @classmethod
    def _has_both(cls, value: str) -> str:
        if value.count("{question}") != 1 or value.count("{context}") != 1:
            raise ValueError("must hold {question} and {context}, once each")
        return value

    def check(self, target: str) -> None:
        super().check(target)
        folder = Path(self.documents)
        if not folder.is_dir():
            raise RecipeError(f"--set documents={self.documents}: there is no such folder")
        if not any(_documents(folder)):
            raise RecipeError(f"--set documents={self.documents}: the folder holds no document (.txt or .md) with text")
        if self.encoder is not None:
            lacking = [
                name for name in ("config.json", "model.safetensors") if not (Path(self.encoder) / name).is_file()
            ]
            if lacking:
                raise RecipeError(f"--set encoder={self.encoder}: it is no encoder's folder: it has no {lacking[0]}")

    def render(self, model: AppModel, target: str, out: Path) -> None:
        super().render(model, target, out)
        folder = Path(self.documents)
        for path in _documents(folder):
            kept = out / "documents" / path.relative_to(folder)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept)
        if self.encoder is not None:
            (out / "encoder").mkdir()
            for path in sorted(Path(self.encoder).iterdir()):
                if path.suffix in (".json", ".safetensors", ".txt", ".model"):
                    shutil.copyfile(path, out / "encoder" / path.name)

    def _settings(self) -> list[str]:
        return [*super()._settings(), "prompt", "passages", "passage_characters"]

    def _values(self, model: AppModel, place: Target) -> dict[str, Any]:
        values = super()._values(model, place)
        if "pysqlite3-binary" in place.versions:  # the image's own SQLite is older than Chroma takes
            values["requirements"] = sorted(
                [*values["requirements"], f"pysqlite3-binary=={place.versions['pysqlite3-binary']}"]
            )
        return values


def _documents(folder: Path) -> list[Path]:
    """The folder's documents that hold text, none of which lies elsewhere."""
    inside = folder.resolve()
    found = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".txt", ".md") and path.is_file())
    return [p for p in found if p.resolve().is_relative_to(inside) and p.read_text("utf-8", "replace").strip()]


def _files(name: str) -> Path:
    """A folder of ftx.deploy_templates."""
    return template_folder() / name


def _copy(name: str, out: Path) -> None:
    """Copy the plain files of a folder of ftx.deploy_templates."""
    for file in sorted(_files(name).iterdir()):
        if file.is_file() and file.suffix != ".jinja":
            kept = out / PLACES.get(file.name, file.name)
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(file.read_bytes())


def _rendered(name: str, values: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    source = (_files("every_app") / f"{name}.jinja").read_text("utf-8")
    # Markdown, pip and Docker files: nothing here is HTML.
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701
    return environment.from_string(source).render(values)
