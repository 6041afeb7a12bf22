"""Spaces: apps that Hugging Face runs, on a processor, a GPU, or one lent for each call (ZeroGPU)."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ftx import AppSettings, Bundle, HubError, Publisher, RecipeError
from ftx.publish.app_settings import fetched_model
from ftx.publish.credentials import scrub
from ftx.publish.licence import card_head
from ftx_huggingface.publisher import TOKEN, HuggingFace

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SDKS = ("gradio", "docker", "static")
FAILED = ("BUILD_ERROR", "CONFIG_ERROR", "NO_APP_FILE", "RUNTIME_ERROR")
STARTED = ("RUNNING", "SLEEPING")
HALTED = ("STOPPED", "PAUSED")
WORKING = ("BUILDING", "RUNNING_BUILDING", "APP_STARTING", "RUNNING_APP_STARTING")
POLL = 2.0  # seconds
PATIENCE = 5  # looks during which the stage may still be that of before the change
LOG_LINES = 5
# What ZeroGPU runs, as the hub's pages had it on 2026-08-22.
ZERO = "zero-"
ZERO_PYTHONS = ("3.12", "3.10")
ZERO_TORCH = ("2.8.0", "2.9.1", "2.10.0", "2.11.0")


class Space(HuggingFace):
    """An app on the hub. What it runs by stands in the head of its README.md."""

    repo_type = "space"
    configures: ClassVar[bool] = True

    def address(self, repo: str) -> str:
        return super().address(f"spaces/{repo}")

    def render(self, repo: str, kind: str, folder: Path) -> None:
        """Raises RecipeError for an app that was rendered for another place, or that ZeroGPU cannot run."""
        head = card_head(folder)
        if head.get("sdk") not in SDKS:
            raise RecipeError(
                f"the app's README.md names no sdk ({', '.join(SDKS)}), which a Space needs; make the app for "
                "huggingface or huggingface-docker"
            )
        if self.hardware and self.hardware.startswith(ZERO):
            _refuse_without_zero_gpu(self.hardware, head, folder)

    def of_models(self) -> Publisher:
        return HuggingFace(**self.model_dump())

    def configure(self, repo: str, settings: AppSettings) -> None:
        api = self._api()
        with self._asking(repo):
            for name, value in settings.secrets.items():
                api.add_space_secret(repo, name, value)
            for name, value in settings.variables.items():
                api.add_space_variable(repo, name, value)

    def await_start(self, repo: str, *, changed: bool = True) -> None:
        self._move(repo)
        if not self.wait:
            return
        api = self._api()
        with self._asking(repo):
            stage = str(api.get_space_runtime(repo).stage)
            if stage in HALTED or (not changed and stage in FAILED):  # a commit alone wakes no halted one
                api.restart_space(repo)
                changed = True
            try:
                if changed:
                    _await_beginning(repo, api)
                stage = str(api.wait_for_space(repo, timeout=self.wait).stage)
            except TimeoutError:
                raise HubError(
                    f"{self.address(repo)} holds the app, and does not run after {self.wait} s; look at its page"
                ) from None
            if stage in STARTED:
                return
            log = list(api.fetch_space_logs(repo, build=stage in ("BUILD_ERROR", "CONFIG_ERROR")))
        said = [line.strip() for part in log for line in part.splitlines() if line.strip()][-LOG_LINES:]
        told = scrub(" | ".join(said), str(api.token or "") or None) or "its log is empty"
        raise HubError(f"{self.address(repo)} holds the app, and does not run ({stage}): {told}")

    def afterwards(self, repo: str, bundle: Bundle) -> Sequence[str]:
        model = fetched_model(bundle.folder, self.name)
        if model is None or TOKEN in bundle.settings.secrets:
            return ()
        return (
            f"1. While the model {model[0]} is private, the Space needs a token that reads it. Make one at "
            f"{super().address('settings')}/tokens, and add it as the secret {TOKEN} at {self.address(repo)}/settings.",
        )

    def _move(self, repo: str) -> None:
        """Ask for the hardware that was named, where the Space has another."""
        if not self.hardware:
            return
        api = self._api()
        with self._asking(repo):
            runtime = api.get_space_runtime(repo)
            if self.hardware not in (runtime.hardware, runtime.requested_hardware):
                hardware: Any = self.hardware
                api.request_space_hardware(repo, hardware)

    def _create(self, repo: str, api: HfApi, bundle: Bundle) -> None:
        sdk = str(card_head(bundle.folder)["sdk"])
        hardware: Any = self.hardware
        api.create_repo(repo, private=True, exist_ok=False, repo_type="space", space_sdk=sdk, space_hardware=hardware)

    def _unpaid(self, repo: str, why: str) -> str:
        return (
            f"{self.hub} wants a paid plan for the Space {repo} ({why}): Gradio and Docker Spaces need PRO, Team or "
            "Enterprise, on a free processor too; a personal account with a verified e-mail, older than 30 days, may "
            f"have two Gradio Spaces on lent GPUs: --set hardware={ZERO}a10g; or take ftx publish modelscope, whose "
            "processors are free"
        )


def _await_beginning(repo: str, api: HfApi) -> None:
    """Wait until the hub begins with what was changed: until then it tells the stage of before."""
    for _ in range(PATIENCE):
        if str(api.get_space_runtime(repo).stage) in WORKING:
            return
        time.sleep(POLL)


def _refuse_without_zero_gpu(hardware: str, head: Mapping[str, Any], folder: Path) -> None:
    """Raise RecipeError, with every reason, for an app that could not run on a GPU lent for each call."""
    begin = f"--set hardware={hardware}: ZeroGPU"
    problems = []
    if head.get("sdk") != "gradio":
        problems.append(f"{begin} runs Gradio apps alone, and README.md says sdk: {head.get('sdk')}")
    python = str(head.get("python_version", "3.10"))
    if not python.startswith(ZERO_PYTHONS):
        problems.append(f"{begin} has Python {' and '.join(ZERO_PYTHONS)}, and README.md says python_version: {python}")
    torch = _pinned(folder / "requirements.txt", "torch")
    if torch is not None and torch not in ZERO_TORCH:
        problems.append(f"{begin} has torch {', '.join(ZERO_TORCH)}, and requirements.txt says {torch}")
    if not any(_lends(path) for path in folder.glob("*.py")):
        problems.append(f"{begin} stops an app without a function under @spaces.GPU, and none of its files has one")
    if problems:
        raise RecipeError(*problems)


def _pinned(requirements: Path, package: str) -> str | None:
    if not requirements.is_file():
        return None
    found = re.search(rf"(?m)^{package}\s*==\s*([^\s;+]+)", requirements.read_text("utf-8", "replace"))
    return found[1] if found else None


def _lends(path: Path) -> bool:
    """Whether the file names spaces.GPU."""
    try:
        tree = ast.parse(path.read_text("utf-8", "replace"))
    except SyntaxError:
        return False
    return any(_is_gpu(node) for node in ast.walk(tree))


def _is_gpu(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "GPU"
        and isinstance(node.value, ast.Name)
        and node.value.id == "spaces"
    )
