"""OpenXLab's model centre. Its web page makes repositories, or its own client where keys are set; git fills them.

The client never enters our environment: it reports failures as success, updates itself, and fights the versions we
need. It is asked in one of its own (`ftx env create openxlab`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from ftx.atomic import write_text
from ftx.contracts import Bundle, Publisher, Remote
from ftx.errors import HubError
from ftx.in_environment import answered
from ftx.publish.credentials import token
from ftx.publish.git_publisher import GitPublisher
from ftx.publish.licence import card_head

METAFILE = "metafile.yml"
TASKS = {True: "Image-Text-to-Text", False: "Text Generation"}
SEEING = "preprocessor_config.json"
ENVIRONMENT = "openxlab"
KEYS = ("OPENXLAB_AK", "OPENXLAB_SK")


class OpenXLab(GitPublisher):
    """A model on OpenXLab. The token is OPENXLAB_TOKEN (a git access token that may write), the name OPENXLAB_USER.

    With OPENXLAB_AK and OPENXLAB_SK a missing repository is made by OpenXLab's client, in the environment `openxlab`.
    """

    name = "openxlab"
    hub = "OpenXLab"
    takes = ("adapter", "merged", "model", "app")
    variable = "OPENXLAB_TOKEN"
    user_variable = "OPENXLAB_USER"
    also = (*KEYS, "GITHUB_TOKEN", "GITHUB_USER")  # of its client, and of its apps
    settings_page = "key management (密钥管理), Git access token (Git 访问令牌), one that may write (可写)"
    host: str = Field("https://code.openxlab.org.cn", description="the git host; of an app https://github.com")
    site: str = Field("https://openxlab.org.cn", description="the web page")

    def for_kind(self, kind: str) -> Publisher:
        from ftx_openxlab.app import OpenXLabApp

        return OpenXLabApp(**self.model_dump(exclude_unset=True)) if kind == "app" else self

    def address(self, repo: str) -> str:
        return f"{self.site}/models/detail/{repo}" if self.host.endswith("openxlab.org.cn") else f"{self.host}/{repo}"

    def render(self, repo: str, kind: str, folder: Path) -> None:
        """metafile.yml, with an entry for each weight file, as the model centre reads it."""
        described = metafile(repo, f"{self.host}/{repo}.git", folder)
        write_text(folder / METAFILE, yaml.safe_dump(described, allow_unicode=True, sort_keys=False))

    def push(self, repo: str, bundle: Bundle, remote: Remote | None, sent: Callable[[int], None]) -> str:
        if remote is None and (keys := _keys()):
            metafile = (bundle.folder / METAFILE).read_text("utf-8")
            name = repo.partition("/")[2]
            answered(ENVIRONMENT, {"do": "create", "name": name, "metafile": metafile}, keys)
            remote = self.listed(repo)
            if remote is None:
                raise HubError(
                    f"{self.hub} made a repository {name}, and {self.host} has no {repo}: the keys may be another "
                    "user's, or it takes a moment; look at its page, then run the same command again"
                )
        return super().push(repo, bundle, remote, sent)

    def by_hand(self, repo: str, kind: str) -> Sequence[str]:
        owner, _, name = repo.partition("/")
        return (
            f"1. Log in at {self.site} as {owner}, open the model centre (模型中心), and create a model (创建模型).",
            f"2. Repository name (仓库名称): {name}. Visibility (可见性): private (私有). Leave the files empty.",
            "3. Open key management (密钥管理), Git access token (Git 访问令牌), and add one that may write (可写).",
            f"4. Set OPENXLAB_USER={owner} and OPENXLAB_TOKEN to that token; then run the same ftx publish again.",
            "Or set OPENXLAB_AK and OPENXLAB_SK (密钥管理), run ftx env create openxlab, and leave 1 and 2 to ftx.",
        )

    def make_public(self, repo: str) -> Sequence[str]:
        return (f"1. Open {self.address(repo)}, settings (设置), and set the visibility (可见性) to public (公开).",)


def _keys() -> Mapping[str, str]:
    """The client's keys; none unless both are there."""
    found = {key: value for key in KEYS if (value := token(key))}
    return found if len(found) == len(KEYS) else {}


def metafile(repo: str, code: str, folder: Path) -> dict[str, Any]:
    """What OpenXLab asks of a model: one collection, and one model for each weight file. `code` is where it lies."""
    name = repo.partition("/")[2]
    weights = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    task = TASKS[(folder / SEEING).is_file()]
    licence = str(card_head(folder).get("license", "other"))
    return {
        "Collections": [{"Name": name, "License": licence, "Framework": "PyTorch", "Code": {"URL": code}}],
        "Models": [
            {
                "Name": name if len(weights) == 1 else f"{name}-{number}",
                "Results": [{"Task": task, "Dataset": "none"}],
                "Weights": weight,
            }
            for number, weight in enumerate(weights, 1)
        ],
    }
