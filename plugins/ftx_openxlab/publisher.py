"""OpenXLab's model centre. Its web page makes repositories; git fills them.

Its own client is not used: it reports failures as success, updates itself, and fights the versions we need.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from ftx.atomic import write_text
from ftx.publish.git_publisher import GitPublisher

METAFILE = "metafile.yml"
TASKS = {True: "Image-Text-to-Text", False: "Text Generation"}
SEEING = "preprocessor_config.json"


class OpenXLab(GitPublisher):
    """A model on OpenXLab. The token is OPENXLAB_TOKEN (a git access token that may write), the name OPENXLAB_USER."""

    name = "openxlab"
    hub = "OpenXLab"
    variable = "OPENXLAB_TOKEN"
    user_variable = "OPENXLAB_USER"
    tokens = (variable, user_variable)
    settings_page = "key management (密钥管理), Git access token (Git 访问令牌), one that may write (可写)"
    host: str = Field("https://code.openxlab.org.cn", description="the git host")
    site: str = Field("https://openxlab.org.cn", description="the web page")

    def address(self, repo: str) -> str:
        return f"{self.site}/models/detail/{repo}" if self.host.endswith("openxlab.org.cn") else f"{self.host}/{repo}"

    def render(self, repo: str, kind: str, folder: Path) -> None:
        """metafile.yml, with an entry for each weight file, as the model centre reads it."""
        write_text(folder / METAFILE, yaml.safe_dump(metafile(repo, folder), allow_unicode=True, sort_keys=False))

    def by_hand(self, repo: str, kind: str) -> Sequence[str]:
        owner, _, name = repo.partition("/")
        return (
            f"1. Log in at {self.site} as {owner}, open the model centre (模型中心), and create a model (创建模型).",
            f"2. Repository name (仓库名称): {name}. Visibility (可见性): private (私有). Leave the files empty.",
            "3. Open key management (密钥管理), Git access token (Git 访问令牌), and add one that may write (可写).",
            f"4. Set OPENXLAB_USER={owner} and OPENXLAB_TOKEN to that token; then run the same ftx publish again.",
        )

    def make_public(self, repo: str) -> Sequence[str]:
        return (f"1. Open {self.address(repo)}, settings (设置), and set the visibility (可见性) to public (公开).",)


def metafile(repo: str, folder: Path) -> dict[str, Any]:
    """What OpenXLab asks of a model: one collection, and one model for each weight file."""
    head = yaml.safe_load((folder / "README.md").read_text("utf-8").split("---")[1])
    name = repo.partition("/")[2]
    weights = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    task = TASKS[(folder / SEEING).is_file()]
    return {
        "Collections": [
            {"Name": name, "License": str(head.get("license", "other")), "Framework": "PyTorch", "Code": {"URL": ""}}
        ],
        "Models": [
            {
                "Name": name if len(weights) == 1 else f"{name}-{number}",
                "Results": [{"Task": task, "Dataset": "none"}],
                "Weights": weight,
            }
            for number, weight in enumerate(weights, 1)
        ],
    }
