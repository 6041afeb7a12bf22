"""Data sets on ModelScope, or on the server that MODELSCOPE_ENDPOINT names."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ftx.errors import FtxError, HubError, RecipeError, did_you_mean
from ftx.publish.addresses import endpoint, refuse_bad_proxy_of
from ftx.publish.credentials import scrub, token
from ftx_sources.snapshot import COMMIT, CachedSnapshot

DEFAULT_BRANCH = "master"


class ModelScope(CachedSnapshot):
    """A data set on ModelScope. The token is MODELSCOPE_API_TOKEN, or what the client's own login saved."""

    name = "modelscope"
    hub = "ModelScope"

    def _find_commit(self) -> str:
        api = _client()
        with self._asking(api):
            # The client's methods tell no commit ids, so this asks by its transport, which brings token and errors.
            answer = api.legacy._request(
                "GET",
                f"datasets/{self.repo}/commits",
                params={"Ref": self.revision or DEFAULT_BRANCH, "PageNumber": 1, "PageSize": 1},
                single_attempt=True,
            )
            commit = _first_commit(answer.json())
        if commit is None:
            raise self._missing(api)
        return commit

    def _download(self, folder: Path) -> None:
        api = _client()
        with self._asking(api), TemporaryDirectory() as locks:
            listed = api.list_repo_files(self.repo, "dataset", revision=self.commit)
            blobs = {entry.path: entry for entry in listed if not entry.is_dir}
            chosen = [
                {"Path": name, "Size": blobs[name].size, "Sha256": blobs[name].sha256} for name in self.wanted(blobs)
            ]
            api.download_repo(
                self.repo, "dataset", revision=self.commit, local_dir=folder, cache_dir=locks, file_list=chosen
            )

    @contextmanager
    def _asking(self, api: Any) -> Iterator[None]:
        """Turn what the client raises into one sentence; an OSError of the disk passes."""
        import modelscope_hub.errors as client
        import requests

        try:
            yield
        except client.FileDownloadError as error:
            cause = next(iter(error.failed_files.values()), error)
            if isinstance(cause, OSError) and not isinstance(cause, ConnectionError | requests.RequestException):
                raise cause from None
            raise self._answered(api, cause) from None
        except (client.HubError, requests.RequestException) as error:
            raise self._answered(api, error) from None

    def _answered(self, api: Any, error: BaseException) -> FtxError:
        import modelscope_hub.errors as client
        import requests

        if isinstance(error, client.NotExistError):
            return self._missing(api)
        if isinstance(error, client.AuthenticationError | client.PermissionDeniedError):
            return self._refused(api)
        if isinstance(error, client.NetworkError | requests.ConnectionError | requests.Timeout):
            return HubError(f"{self.hub} ({api.legacy.endpoint}) cannot be reached for {self.repo}")
        status = getattr(error, "status_code", None)
        why = f"it answered {status}" if status else _line(error, api)
        return HubError(f"{self.repo} could not be read from {self.hub}: {why}")

    def _refused(self, api: Any) -> HubError:
        if not api.legacy.token:
            return HubError(f"{self.repo} on {self.hub} is private: set MODELSCOPE_API_TOKEN to your token")
        return HubError(
            f"{self.hub} refuses access to {self.repo} with this token: check MODELSCOPE_API_TOKEN and its rights"
        )

    def _missing(self, api: Any) -> FtxError:
        """Whether the repository is missing or only its revision."""
        import modelscope_hub.errors as client
        import requests

        try:
            known = [str(entry.get("Revision")) for entry in api.list_repo_revisions(self.repo, "dataset")]
        except client.NotExistError:
            hint = "" if api.legacy.token else ", or it is private: then set MODELSCOPE_API_TOKEN"
            return HubError(f"there is no data set {self.repo} on {self.hub}{hint}")
        except (client.HubError, requests.RequestException) as error:
            return self._answered(api, error)
        wanted = self.revision or DEFAULT_BRANCH
        return HubError(f"{self.repo} has no revision '{wanted}' on {self.hub}; {did_you_mean(wanted, known)}")


def _client() -> Any:
    """The hub's client with the environment as it is now. Raises RecipeError when it is not installed."""
    try:
        from modelscope_hub import HubApi
        from modelscope_hub.config import HubConfig
    except ModuleNotFoundError:
        raise RecipeError("the source 'modelscope' needs modelscope-hub: pip install 'ftx[modelscope]'") from None
    if "MODELSCOPE_LOG_LEVEL" not in os.environ:
        # It logs every listing and repeats every error that is raised.
        logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
    place = endpoint("MODELSCOPE_ENDPOINT", "https://modelscope.cn", "MODELSCOPE_API_TOKEN")
    refuse_bad_proxy_of(place)
    given = token("MODELSCOPE_API_TOKEN", place)
    return HubApi(HubConfig(token=given)) if given else HubApi(HubConfig())


def _first_commit(answer: Any) -> str | None:
    """The id of the newest commit in an answer of the hub, or None when it names none."""
    match answer:
        case {"Data": {"Commit": [{"Id": str(commit)}, *_]}} if COMMIT.fullmatch(commit):
            return commit
    return None


def _line(error: BaseException, api: Any) -> str:
    text = str(getattr(error, "message", error)).strip() or type(error).__name__
    return scrub(text.splitlines()[0], api.legacy.token)
