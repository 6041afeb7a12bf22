"""ModelScope, or the server that MODELSCOPE_ENDPOINT names, by modelscope-hub.

One commit of the client's own making: its folder upload would make a missing repository public, leave a cache in the
folder, and take that cache's word for what the hub holds.
"""

from __future__ import annotations

import base64
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import Field, field_validator

from ftx import Bundle, FtxError, HubError, Identity, Publisher, RecipeError, Remote, RemoteFile
from ftx.publish.addresses import endpoint, plain_address, refuse_bad_proxy_of, refuse_clear
from ftx.publish.answers import no_room, refused, store_refused, unreachable
from ftx.publish.credentials import Credential, scrub

TOKEN = "MODELSCOPE_API_TOKEN"  # noqa: S105 (the variable's name)
BRANCH = "master"
INLINE = 64 << 10  # bytes; what is longer goes by LFS, as the client itself does
BINARY = (".safetensors", ".bin", ".pt", ".pth", ".model")
PUBLIC = 5  # the hub's number for it
# What the hub calls the common licences, as its client's own table has them.
LICENCES = {
    "apache-2.0": "Apache License 2.0",
    "mit": "MIT License",
    "unlicense": "Unlicense",
    **{
        name.lower(): name
        for name in (
            *("GPL-2.0", "GPL-3.0", "LGPL-2.1", "LGPL-3.0", "AFL-3.0", "ECL-2.0", "BSD-2-Clause", "BSD-3-Clause"),
            *("CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC0-1.0"),
        )
    },
}


class ModelScope(Publisher):
    """A model repository. The token is MODELSCOPE_API_TOKEN, of `ftx login`, or of the client's own login."""

    variable = TOKEN
    settings_page = "https://modelscope.cn/my/myaccesstoken"
    name = "modelscope"
    hub = "ModelScope"
    takes = ("adapter", "merged", "model", "app")
    by: Literal["client", "git"] = Field(
        "client", description="what sends a model's files: client, or git with Git LFS"
    )
    git: str | None = Field(None, description="where git goes, as https://www.modelscope.cn; default: the hub's own")
    hardware: str | None = Field(
        None, description="what a Studio runs on, as xgpu/8v-cpu-32g-mem-16g; default: the hub's"
    )
    base_image: str | None = Field(None, description="a Studio's image; default: one with the app's Python and torch")
    wait: int = Field(900, ge=0, description="seconds to wait for a Studio to run; 0: do not wait")

    @field_validator("git")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return None if value is None else plain_address(value, TOKEN)

    def for_kind(self, kind: str) -> Publisher:
        from ftx_modelscope.by_git import ByGit
        from ftx_modelscope.studio import Studio

        if kind == "app":
            return Studio(**self.model_dump())
        return ByGit(**self.model_dump()) if self.by == "git" else self

    def address(self, repo: str) -> str:
        return f"{self.login_address()}/models/{repo}"

    def login_address(self) -> str:
        return endpoint("MODELSCOPE_ENDPOINT", "https://modelscope.cn", TOKEN)

    def credential(self) -> Credential | None:
        if found := super().credential():
            return found
        if find_spec("modelscope_hub") is None:  # without the client it left no login
            return None
        saved = self._client(None).legacy.token
        return Credential(saved, None, "ms-hub login") if saved else None

    def identify(self, token: str, user: str | None, repo: str | None) -> Identity:
        import modelscope_hub.errors as client

        api = self._client(token)
        with self._asking("your account", api):
            name = api.whoami().username
            try:  # it gives a session to those who may write
                api.legacy.login(token)
            except (client.AuthenticationError, client.PermissionDeniedError):
                return Identity(name, ("read",), False)
        return Identity(name, ("write",), True)

    def front_matter(self, card: Mapping[str, Any]) -> Mapping[str, Any]:
        """ModelScope's names for the licence, the task and the framework."""
        own = {key: value for key, value in card.items() if key not in ("pipeline_tag", "datasets")}
        own["license"] = LICENCES.get(str(card["license"]), card["license"])
        own["frameworks"] = ["pytorch"]
        own["tasks"] = [str(card["pipeline_tag"])]
        return own

    def listed(self, repo: str, revision: str | None = None) -> Remote | None:
        import modelscope_hub.errors as client

        api = self._api()
        with self._asking(repo, api):
            try:
                about = api.legacy.get_repo_info(repo, "model")
            except client.NotExistError:
                return None
            commit = self._newest(repo, api, revision)
            if commit is None and revision is not None:
                raise HubError(f"{repo} on {self.hub} has no revision '{revision}'")
            entries = api.list_repo_files(repo, "model", revision=commit or BRANCH)
            files = {one.path: RemoteFile(one.size, one.sha256 or None) for one in entries if not one.is_dir}
            return Remote(commit, files, about.get("Visibility") != PUBLIC)

    def fetch(self, repo: str, remote: Remote, folder: Path) -> None:
        api = self._api()
        with self._asking(repo, api), TemporaryDirectory() as locks:
            api.download_repo(repo, "model", revision=remote.revision, local_dir=folder, cache_dir=locks)

    def push(self, repo: str, bundle: Bundle, remote: Remote | None, sent: Callable[[int], None]) -> str:
        api = self._api()
        there = remote.files if remote else {}
        fresh = [name for name, f in bundle.files.items() if name not in there or not f.same_as(there[name])]
        with self._asking(repo, api):
            if remote is None:
                api.create_repo(repo, "model", visibility="private", license=licence_of(bundle))
            elif remote.revision != self._newest(repo, api):
                raise HubError(f"someone else changed {repo} on {self.hub} meanwhile; run the same command again")
            self._send_large(repo, api, bundle, [name for name in fresh if _large(bundle, name)], sent)
            actions = [_action(bundle, name, name in there) for name in fresh]
            actions += [{"action": "delete", "path": name, "type": "normal"} for name in bundle.removed]
            api.legacy.create_commit(repo, "model", actions, bundle.message, BRANCH)
            return str(self._newest(repo, api) or "")

    def make_public(self, repo: str) -> Sequence[str]:
        return (f"1. Open {self.address(repo)}, settings (设置), and set the visibility (可见性) to public (公开).",)

    def _send_large(
        self, repo: str, api: Any, bundle: Bundle, names: Sequence[str], sent: Callable[[int], None]
    ) -> None:
        """Those objects that the hub lacks, each by itself, so that what arrived need not be sent again."""
        objects = [{"oid": bundle.files[name].sha256, "size": bundle.files[name].size} for name in names]
        links = api.legacy.validate_blobs(repo, "model", objects) if objects else {}
        done = 0
        for name in names:
            about = bundle.files[name]
            link = links.get(str(about.sha256))
            if link:
                with (bundle.folder / name).open("rb") as file:
                    api.legacy.upload_blob(link, file, about.size)
            done += about.size
            sent(done)

    def _newest(self, repo: str, api: Any, revision: str | None = None) -> str | None:
        """The commit of a branch or tag. The client's methods tell none, so this asks by its transport."""
        import modelscope_hub.errors as client

        asked = {"Ref": revision or BRANCH, "PageNumber": 1, "PageSize": 1}
        try:
            answer = api.legacy._request("GET", f"models/{repo}/commits", params=asked).json()
        except client.NotExistError:
            return None
        match answer:
            case {"Data": {"Commit": [{"Id": str(commit)}, *_]}}:
                return commit
        return None

    def _api(self) -> Any:
        found = super().credential()
        return self._client(found.token if found else None)

    def _client(self, given: str | None) -> Any:
        try:
            from modelscope_hub import HubApi
            from modelscope_hub.config import HubConfig
        except ModuleNotFoundError:
            raise RecipeError("publishing to ModelScope needs modelscope-hub: pip install 'ftx[modelscope]'") from None
        if "MODELSCOPE_LOG_LEVEL" not in os.environ:
            logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
        place = self.login_address()
        refuse_bad_proxy_of(place)
        api = HubApi(HubConfig(token=given)) if given else HubApi(HubConfig())
        if api.legacy.token:
            refuse_clear(place, TOKEN)
        return api

    @contextmanager
    def _asking(self, repo: str, api: Any) -> Iterator[None]:
        """Turn what the client raises into one sentence."""
        import modelscope_hub.errors as client
        import requests

        try:
            yield
        except client.FileDownloadError as error:
            raise self._answered(repo, api, next(iter(error.failed_files.values()), error)) from None
        except (client.HubError, requests.RequestException) as error:
            raise self._answered(repo, api, error) from None

    def _answered(self, repo: str, api: Any, error: BaseException) -> FtxError:
        import modelscope_hub.errors as client
        import requests

        known = api.legacy.token
        text = str(getattr(error, "message", error)).strip() or type(error).__name__
        why = scrub(text.splitlines()[0], known)
        if isinstance(error, client.NetworkError | requests.ConnectionError | requests.Timeout):
            return unreachable(self.hub, str(api.legacy.endpoint), why)
        status = getattr(error, "status_code", None) or _given_up_on(text)
        if getattr(error, "method", None) == "PUT" and status in (401, 403, 404):
            return store_refused(self.hub, repo, status, why)
        if isinstance(error, client.AuthenticationError):
            if not known:
                return HubError(f"{self.hub} asks who you are: run ftx login {self.name}, or set {TOKEN} to your token")
            return HubError(f"{self.hub} does not know this token: check {TOKEN}, or run ftx login {self.name}")
        if isinstance(error, client.PermissionDeniedError) and error.method in ("GET", "HEAD"):
            return HubError(
                f"this token may not read {repo} on {self.hub} ({why}): accept its terms on its page, or check {TOKEN}"
            )
        if isinstance(error, client.PermissionDeniedError):
            return HubError(f"this token may not write to {repo} on {self.hub} ({why}): check {TOKEN} and its rights")
        if isinstance(error, client.AlreadyExistsError) and status != 409:
            return HubError(f"someone else made {repo} on {self.hub} meanwhile; run the same command again")
        if isinstance(error, client.QuotaExceededError):
            return no_room(self.hub, repo, why)
        if isinstance(error, client.NotExistError):
            return refused(self.hub, repo, 404, why)
        if status:
            return refused(self.hub, repo, status, why)
        return HubError(f"{self.hub} did not go through with {repo}: {why}; run the same command again")


def licence_of(bundle: Bundle) -> str:
    """The licence of the card; without one the hub would write its own."""
    from ftx.publish.licence import card_head

    return str(card_head(bundle.folder).get("license", "other"))


def _given_up_on(text: str) -> int | None:
    """The status that the client asked again for until it had enough."""
    found = re.search(r"too many (\d{3}) error responses", text)
    return int(found[1]) if found else None


def _large(bundle: Bundle, name: str) -> bool:
    return bundle.files[name].size > INLINE or name.endswith(BINARY)


def _action(bundle: Bundle, name: str, known: bool) -> dict[str, Any]:
    about = bundle.files[name]
    action = {"action": "update" if known else "create", "path": name, "size": about.size}
    if _large(bundle, name):
        return {**action, "type": "lfs", "sha256": about.sha256, "content": "", "encoding": ""}
    content = base64.b64encode((bundle.folder / name).read_bytes()).decode()
    return {**action, "type": "normal", "sha256": "", "content": content, "encoding": "base64"}
