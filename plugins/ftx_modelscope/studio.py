"""Studios (创空间): apps that ModelScope runs. A push alone starts none: each is deployed by a call of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from ftx import AppSettings, Bundle, HubError, Publisher, RecipeError
from ftx.atomic import write_text
from ftx.publish.app_settings import fetched_model, pins
from ftx.publish.credentials import scrub
from ftx.publish.licence import card_head
from ftx_modelscope.by_git import ByGit
from ftx_modelscope.publisher import LICENCES, TOKEN, ModelScope, licence_of

VISIBILITIES = {"private": True, "public": False}  # whether it is private; of others nothing is known
PYTHON = "py311"  # of the images that the hub offers, as their names tell it
RUNNING = "running"
FAILED = ("failed", "error", "stopped")  # what the names of the stages of those that do not run end in
POLL = 5.0  # seconds
PATIENCE = 6  # looks during which the stage may still be that of before the deployment
LOG_LINES = 5
LOG_PAGE = 100


class Studio(ByGit):
    """An app on the hub. What it starts with stands in the head of its README.md."""

    place = "studios/"
    configures: ClassVar[bool] = True

    def address(self, repo: str) -> str:
        return super().address(repo).replace("/models/", "/studios/")

    def render(self, repo: str, kind: str, folder: Path) -> None:
        """Name the licence as this hub does. Raises RecipeError for an app that was rendered for another place."""
        head = dict(card_head(folder))
        if "domain" not in head and "deployspec" not in head:
            raise RecipeError(
                "the app's README.md has no head for a Studio (domain, deployspec); make the app for modelscope: "
                "ftx app new TEMPLATE --target modelscope"
            )
        spec = head.get("deployspec") or {}
        if not isinstance(spec, dict):
            raise RecipeError("the app's README.md: write deployspec as entry_file: app.py on a line of its own")
        entry = str(spec.get("entry_file", "app.py"))
        if not (folder / entry).is_file():
            raise RecipeError(f"the app's README.md starts it by {entry}, and there is no such file")
        head["license"] = LICENCES.get(str(head.get("license")), head.get("license", "other"))
        body = (folder / "README.md").read_text("utf-8")[3:].partition("\n---\n")[2]
        write_text(folder / "README.md", f"---\n{yaml.safe_dump(head, allow_unicode=True, sort_keys=False)}---\n{body}")

    def of_models(self) -> Publisher:
        return ModelScope(**self.model_dump())

    def configure(self, repo: str, settings: AppSettings) -> None:
        api = self._api()
        with self._asking(repo, api):
            if settings.secrets:
                known = _keys(api.list_secrets(repo))
                for name, value in settings.secrets.items():
                    (api.update_secret if name in known else api.add_secret)(repo, name, value)
            if settings.variables:
                known = _keys(api.list_variables(repo))
                for name, value in settings.variables.items():
                    (api.update_variable if name in known else api.add_variable)(repo, name, value)

    def await_start(self, repo: str, *, changed: bool = True) -> None:
        api = self._api()
        with self._asking(repo, api):
            about = self._about(repo, api)
            wished = {"hardware": self.hardware, "base_image": self.base_image}
            moved = {key: value for key, value in wished.items() if value and about.get(key) != value}
            if moved:
                api.update_repo_settings(repo, "studio", **moved)
            before = _stage(about)
            if not changed and not moved and before == RUNNING:
                return
            api.deploy_repo(repo, "studio")
            if not self.wait:
                return
            stage = self._settled(repo, api, before)
            if stage == RUNNING:
                return
            told = self._log(repo, api, stage) or "its log is empty"
        raise HubError(f"{self.address(repo)} holds the app, and does not run ({stage}): {told}")

    def afterwards(self, repo: str, bundle: Bundle) -> Sequence[str]:
        model = fetched_model(bundle.folder, self.name)
        if model is None or TOKEN in bundle.settings.secrets:
            return ()
        return (
            f"1. While the model {model[0]} is private, the Studio needs a token that may read it: add it as "
            f"the variable (环境变量) {TOKEN} in the settings (设置) of {self.address(repo)}.",
        )

    def make_public(self, repo: str) -> Sequence[str]:
        api = self._api()
        with self._asking(repo, api):
            api.update_repo_settings(repo, "studio", visibility="public")
        return ()

    def _settled(self, repo: str, api: Any, before: str) -> str:
        """The stage that a deployment ends in. Raises HubError when it takes too long."""
        until = time.monotonic() + self.wait
        looks = 0
        while True:
            stage = _stage(self._about(repo, api))
            if (stage == RUNNING or stage.endswith(FAILED)) and (stage != before or looks >= PATIENCE):
                return stage
            if time.monotonic() > until:
                raise HubError(
                    f"{self.address(repo)} holds the app, and does not run after {self.wait} s ({stage}); look at "
                    "its page"
                )
            looks += 1
            time.sleep(POLL)

    def _log(self, repo: str, api: Any, stage: str) -> str:
        """The end of the log of what failed."""
        kinds = ("build", "run") if "build" in stage else ("run", "build")
        for kind in kinds:
            page = api.get_repo_logs(repo, "studio", log_type=kind, page_size=LOG_PAGE) or {}
            last = int(page.get("total_page_num") or 1)
            if last > 1:
                page = api.get_repo_logs(repo, "studio", log_type=kind, page_num=last, page_size=LOG_PAGE) or {}
            if lines := list(_lines(page.get("logs") or ())):
                return scrub(" | ".join(lines[-LOG_LINES:]), api.legacy.token)
        return ""

    def _about(self, repo: str, api: Any) -> Mapping[str, Any]:
        owner, _, name = repo.partition("/")
        about: Mapping[str, Any] = api.openapi.get_studio(owner, name)
        return about

    def _private(self, repo: str, api: Any) -> bool | None:
        about = self._about(repo, api)
        told = about.get("visibility")
        if isinstance(told, str):
            return VISIBILITIES.get(told)
        return bool(about.get("private", True))

    def _create(self, repo: str, api: Any, bundle: Bundle) -> None:
        sdk = _sdk(bundle.folder)
        machine = {
            "sdk_version": _version(api, bundle.folder) if sdk == "gradio" else None,
            "base_image": self.base_image or (_image(api, bundle.folder) if sdk in ("gradio", "streamlit") else None),
            "hardware": self.hardware,
        }
        known = {key: value for key, value in machine.items() if value}
        api.create_repo(repo, "studio", visibility="private", license=licence_of(bundle), sdk_type=sdk, **known)


def _stage(about: Mapping[str, Any]) -> str:
    runtime = about.get("runtime")
    return str(about.get("status") or (runtime.get("status") if isinstance(runtime, Mapping) else "") or "").lower()


def _keys(entries: Iterable[Mapping[str, Any]]) -> set[str]:
    return {str(one.get("key")) for one in entries}


def _lines(logs: Iterable[Any]) -> Iterable[str]:
    for one in logs:
        text = one.get("message", "") if isinstance(one, Mapping) else one
        yield from (line.strip() for line in str(text).splitlines() if line.strip())


def _sdk(folder: Path) -> str:
    """What runs the app. Raises RecipeError."""
    pinned = pins(folder)
    for sdk in ("streamlit", "gradio"):
        if sdk in pinned:
            return sdk
    for sdk, start in (("docker", "Dockerfile"), ("static", "index.html")):
        if (folder / start).is_file():
            return sdk
    raise RecipeError("the app's requirements.txt pins neither gradio nor streamlit, and there is no Dockerfile")


def _version(api: Any, folder: Path) -> str | None:
    """The app's Gradio, or the newest of the same major that the hub has: requirements.txt replaces it."""
    wanted = pins(folder)["gradio"]
    offered = [str(one.get("version")) for one in api.list_studio_sdk_versions(sdk_type="gradio")]
    near = [version for version in offered if version.split(".")[0] == wanted.split(".")[0]]
    return wanted if wanted in offered else max(near, key=_number, default=None)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _image(api: Any, folder: Path) -> str | None:
    """An image with the apps' Python, and with the app's torch where there is one."""
    torch = f"torch{pins(folder).get('torch', '')}"
    offered = [str(one.get("name")) for one in api.list_studio_base_images()]
    return max((name for name in offered if PYTHON in name), key=lambda name: (torch in name, name), default=None)
