"""Apps of OpenXLab. It takes them from GitHub, and its web page alone makes them: git sends, the steps are printed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import Field

from ftx.checkpoint_files import read_json
from ftx.contracts import Bundle, Publisher
from ftx.errors import RecipeError
from ftx.publish.app_settings import fetched_model, pins
from ftx.publish.git_publisher import GitPublisher
from ftx.publish.hardware import lent_by
from ftx.publish.sizing import demand_of_app, told

PORT = 7860  # on which OpenXLab starts every app
PYTHON = "3.9"
# The first versions that no longer install on its image (Python 3.9), by package.
TOO_NEW = {"gradio": 5, "transformers": 5}


class OpenXLabApp(GitPublisher):
    """An app's repository on GitHub, or another git host. The token is GITHUB_TOKEN, the user's name GITHUB_USER."""

    name = "openxlab"
    hub = "OpenXLab"
    takes = ("app",)
    variable = "GITHUB_TOKEN"
    user_variable = "GITHUB_USER"
    settings_page = "Settings, Developer settings, Personal access tokens: one that may write a repository's contents"
    host: str = Field("https://github.com", description="the git host that OpenXLab reads apps from")
    site: str = Field("https://openxlab.org.cn", description="the web page")

    def for_kind(self, kind: str) -> Publisher:
        return self

    def of_models(self) -> Publisher:
        """The git host that the app itself asks, which OPENXLAB_GIT names there too."""
        from ftx_openxlab.publisher import OpenXLab

        host = os.environ.get("OPENXLAB_GIT")
        return OpenXLab(host=host) if host else OpenXLab()

    def render(self, repo: str, kind: str, folder: Path) -> None:
        """Raises RecipeError, with every reason, for an app that OpenXLab's image cannot run."""
        problems = []
        target = _json(folder / "app.json").get("target", "openxlab")
        if target != "openxlab":
            problems.append(
                f"app.json: the app was made for {target}, and OpenXLab has Python {PYTHON}; make it anew with: "
                "ftx app new TEMPLATE --target openxlab"
            )
        port = _json(folder / "settings.json").get("port", PORT)
        if port != PORT:
            problems.append(f"settings.json: the app answers on port {port}, and OpenXLab asks on {PORT} alone")
        if not (folder / "app.py").is_file():
            problems.append("app.py is missing: OpenXLab starts an app by it")
        for package, version in pins(folder).items():
            if package in TOO_NEW and _major(version) >= TOO_NEW[package]:
                problems.append(
                    f"requirements.txt: {package} {version} does not install on OpenXLab's Python {PYTHON}; take one "
                    f"before {TOO_NEW[package]}"
                )
        if problems:
            raise RecipeError(*problems)

    def by_hand(self, repo: str, kind: str) -> Sequence[str]:
        owner, _, name = repo.partition("/")
        return (
            f"1. Log in at {self.host} as {owner} and make a new repository. Name: {name}. Visibility: private. "
            "Nothing else: no README, no licence, no .gitignore.",
            f"2. Make an access token that may write its contents. Set {self.variable} to it, {self.user_variable} to "
            f"{owner}.",
            "3. Run the same ftx publish again.",
        )

    def afterwards(self, repo: str, bundle: Bundle) -> Sequence[str]:
        name = repo.partition("/")[2]
        settings = _json(bundle.folder / "settings.json")
        model = fetched_model(bundle.folder, self.name)
        steps = [
            f"Log in at {self.site}, open the app centre (应用中心), and create an app (创建应用).",
            f"Type: {_page(bundle)}. App name (应用名称): {settings.get('title') or name}. Visibility: private (私有).",
            f"Connect GitHub (授权 GitHub) and choose the repository {repo}, branch main.",
            "Start file (启动文件): app.py. Python and packages: requirements.txt and packages.txt, as they are.",
            f"Hardware (硬件资源): {_hardware(bundle.folder)}.",
        ]
        if model:
            steps.append(
                f"Variables (环境变量), while the model {model[0]} is private: OPENXLAB_USER, your name; "
                "OPENXLAB_TOKEN, a git access token that may read (密钥管理)."
            )
        steps.append("Start it (启动). When it does not: its log (日志); out of memory leaves no line there.")
        return [f"{number}. {step}" for number, step in enumerate(steps, 1)]

    def make_public(self, repo: str) -> Sequence[str]:
        return (
            f"Then open the app's settings (设置) at {self.site} and set the visibility (可见性) to public (公开).",
        )


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _major(version: str) -> int:
    """Of a version that begins with a digit, as 5rc1."""
    return int("".join(takewhile(str.isdecimal, version)))


def _page(bundle: Bundle) -> str:
    return "Streamlit" if "streamlit" in pins(bundle.folder) else "Gradio"


def _hardware(folder: Path) -> str:
    demand = demand_of_app(folder)
    if demand is None:
        return "as the plan of the model's publishing said"
    fits, need = demand.smallest(lent_by("openxlab")), told(demand.start)
    return f"{fits.name}, the smallest for {need}" if fits else f"none is large enough for {need}"
