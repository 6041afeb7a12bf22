"""ModelScope's repositories filled by git and git-lfs: the one way its pages tell for Studios, another for models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ftx import Bundle, HubError, Publisher, Remote
from ftx.git_token import USER
from ftx.publish.git_lfs import GitHost
from ftx_modelscope.publisher import PUBLIC, TOKEN, ModelScope, licence_of

OWN = "https://modelscope.cn"
OWN_GIT = "https://www.modelscope.cn"


class ByGit(ModelScope):
    """A model repository that the client makes and asks about, and git fills."""

    place: ClassVar[str] = ""  # what stands before the repository's name in git's address

    def for_kind(self, kind: str) -> Publisher:
        return self

    def listed(self, repo: str, revision: str | None = None) -> Remote | None:
        import modelscope_hub.errors as client

        api = self._api()
        with self._asking(repo, api):
            try:
                private = self._private(repo, api)
            except client.NotExistError:
                return None
        found = self._git(repo, api).listed(revision)
        return Remote(found.revision, found.files, private) if found else Remote(None, {}, private)

    def fetch(self, repo: str, remote: Remote, folder: Path) -> None:
        self._git(repo, self._api()).fetch(remote, folder)

    def push(self, repo: str, bundle: Bundle, remote: Remote | None, sent: Callable[[int], None]) -> str:
        api = self._api()
        if remote is None:
            with self._asking(repo, api):
                self._create(repo, api, bundle)
            self.configure(repo, bundle.settings)
            remote = self.listed(repo)
        if remote is None:
            raise HubError(f"{self.hub} made {repo}, and does not show it yet; run the same command again")
        return self._git(repo, api).push(bundle, remote, sent)

    def _private(self, repo: str, api: Any) -> bool | None:
        about: Mapping[str, Any] = api.legacy.get_repo_info(repo, "model")
        return about.get("Visibility") != PUBLIC

    def _create(self, repo: str, api: Any, bundle: Bundle) -> None:
        api.create_repo(repo, "model", visibility="private", license=licence_of(bundle))

    def _git(self, repo: str, api: Any) -> GitHost:
        endpoint = self.login_address()
        host = self.git or (OWN_GIT if endpoint == OWN else endpoint)
        found = self.credential()
        return GitHost(self.hub, f"{host}/{self.place}{repo}.git", USER, found.token if found else None, TOKEN)
