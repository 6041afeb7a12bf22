"""The Hugging Face Hub, or a server that HF_ENDPOINT names, by huggingface_hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ftx import Bundle, FtxError, HubError, Identity, Publisher, RecipeError, Remote, RemoteFile
from ftx.errors import StorageError
from ftx.publish.addresses import endpoint, refuse_bad_proxies, refuse_clear
from ftx.publish.answers import no_room, refused, store_refused, unreachable
from ftx.publish.credentials import Credential, credential, scrub

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

TOKEN = "HF_TOKEN"  # noqa: S105 (the variable's name)
DEFAULT = "https://huggingface.co"


class HuggingFace(Publisher):
    """A model repository. The token is HF_TOKEN, of `ftx login`, or of `hf auth login`; it must be one that may write.

    All files go out in one commit, large ones by Xet, or by LFS with HF_HUB_DISABLE_XET=1.
    """

    variable = TOKEN
    settings_page = "https://huggingface.co/settings/tokens"
    name = "huggingface"
    hub = "Hugging Face"
    takes = ("adapter", "merged", "model", "app")
    in_parts: ClassVar[bool] = True
    repo_type: ClassVar[str] = "model"
    by: Literal["client", "git"] = Field(
        "client", description="what sends a model's files: client, or git with Git LFS"
    )
    hardware: str | None = Field(None, description="what a Space runs on, as t4-small or zero-a10g; default: the hub's")
    wait: int = Field(900, ge=0, description="seconds to wait for a Space to run; 0: do not wait")

    def model_post_init(self, context: Any, /) -> None:
        _endpoint()  # the client cannot be imported with a broken one

    def for_kind(self, kind: str) -> Publisher:
        from ftx_huggingface.by_git import ByGit
        from ftx_huggingface.space import Space

        if kind == "app" and self.by == "git":
            raise RecipeError("--set by=git is for models: a Space goes by the hub's own client; leave it out")
        if kind == "app":
            return Space(**self.model_dump())
        return ByGit(**self.model_dump()) if self.by == "git" else self

    def address(self, repo: str) -> str:
        return f"{_endpoint()}/{repo}"

    def login_address(self) -> str:
        return _endpoint()

    def credential(self) -> Credential | None:
        return _credential()

    def identify(self, token: str, user: str | None, repo: str | None) -> Identity:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        with self._asking("your account"):
            try:
                about = HfApi(endpoint=_endpoint(), library_name="ftx").whoami(token=token)
            except HfHubHTTPError as error:
                if error.response.status_code != 401:
                    raise
                raise HubError(
                    f"{self.hub} does not know this token: copy it whole from {self.settings_page}"
                ) from None
        return _identity(about)

    def listed(self, repo: str, revision: str | None = None) -> Remote | None:
        from huggingface_hub import RepoFile
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        api = self._api()
        with self._asking(repo):
            try:
                info: Any = api.repo_info(repo, revision=revision, repo_type=self.repo_type)
            except RevisionNotFoundError:
                raise HubError(f"{repo} on {self.hub} has no revision '{revision}'") from None
            except RepositoryNotFoundError as error:
                if error.response.status_code == 404:
                    return None
                raise
            if info.id != repo:
                raise HubError(f"{repo} on {self.hub} was renamed to {info.id}: name that with --repo")
            if info.sha is None:
                return Remote(None, {}, info.private)
            entries = api.list_repo_tree(repo, recursive=True, revision=info.sha, repo_type=self.repo_type)
            files = {entry.path: _as_remote(entry) for entry in entries if isinstance(entry, RepoFile)}
        return Remote(info.sha, files, info.private)

    def fetch(self, repo: str, remote: Remote, folder: Path) -> None:
        from huggingface_hub import snapshot_download

        with self._asking(repo):
            snapshot_download(
                repo,
                repo_type=self.repo_type,
                revision=remote.revision,
                local_dir=folder,
                endpoint=_endpoint(),
                token=_token() or False,
                library_name="ftx",
            )

    def push(self, repo: str, bundle: Bundle, remote: Remote | None, sent: Callable[[int], None]) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        api = self._api()
        there = remote.files if remote else {}
        fresh = [name for name, f in bundle.files.items() if name not in there or not f.same_as(there[name])]
        with self._asking(repo):
            if remote is None:
                self._create(repo, api, bundle)
                self.configure(repo, bundle.settings)
                parent = api.repo_info(repo, repo_type=self.repo_type).sha
            else:
                parent = remote.revision
            operations: list[Any] = [
                CommitOperationAdd(path_in_repo=name, path_or_fileobj=bundle.folder / name) for name in fresh
            ]
            for one in operations:
                if one.upload_info.sha256.hex() != bundle.files[one.path_in_repo].sha256:
                    raise HubError(f"{one.path_in_repo} was changed before it was sent; make it anew and publish again")
            operations += [CommitOperationDelete(path_in_repo=name) for name in bundle.removed]
            done = api.create_commit(
                repo, operations, commit_message=bundle.message, parent_commit=parent, repo_type=self.repo_type
            )
        sent(sum(bundle.files[name].size for name in fresh))
        return str(done.oid)

    def make_public(self, repo: str) -> Sequence[str]:
        with self._asking(repo):
            self._api().update_repo_settings(repo, private=False, repo_type=self.repo_type)
        return ()

    def _create(self, repo: str, api: HfApi, bundle: Bundle) -> None:
        api.create_repo(repo, private=True, exist_ok=False)

    def _api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(endpoint=_endpoint(), token=_token() or False, library_name="ftx")

    @contextmanager
    def _asking(self, repo: str) -> Iterator[None]:
        """Turn what huggingface_hub raises into one sentence."""
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled
        from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx2 in version 2

        refuse_bad_proxies()
        try:
            yield
        except HfHubHTTPError as error:
            raise self._answered(repo, error) from None
        except EntryNotFoundError as error:
            raise self._failed(repo, error) from None
        except OfflineModeIsEnabled:
            raise HubError("HF_HUB_OFFLINE forbids the network; unset it and run the same command again") from None
        except (httpx.HTTPError, ConnectionError) as error:
            raise unreachable(self.hub, _endpoint(), _line(error)) from None
        except OSError as error:
            if error.errno is not None:
                raise StorageError(f"{repo}: this machine's disk does not do: {error.strerror}") from None
            raise self._failed(repo, error) from None
        except (ValueError, RuntimeError) as error:  # of LFS, and of hf_xet
            raise self._failed(repo, error) from None

    def _unpaid(self, repo: str, why: str) -> str:
        return f"{self.hub} wants a paid plan for {repo}: {why}"

    def _failed(self, repo: str, error: Exception) -> HubError:
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx2 in version 2

        why = _line(error)
        if "quota" in str(error).lower():
            return no_room(self.hub, repo, why)
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):  # of LFS's storage
            status, said = cause.response.status_code, _line(HubError(cause.server_message or "it gave no reason"))
            store = status in (401, 403, 404)
            return store_refused(self.hub, repo, status, said) if store else refused(self.hub, repo, status, said)
        if isinstance(cause, httpx.HTTPError):
            return unreachable(self.hub, _endpoint(), _line(cause))
        return HubError(f"{self.hub} did not go through with {repo}: {why}; run the same command again")

    def _answered(self, repo: str, error: HfHubHTTPError) -> FtxError:
        from huggingface_hub.errors import GatedRepoError

        status = error.response.status_code
        why = scrub(error.server_message or f"it answered {status}", _token()).splitlines()[0]
        if status == 401:
            if _token() is None:
                return HubError(f"{self.hub} asks who you are: run ftx login {self.name}, or set {TOKEN} to your token")
            return HubError(f"{self.hub} does not know this token: check {TOKEN}, or run ftx login {self.name}")
        if isinstance(error, GatedRepoError):
            return HubError(
                f"{repo} is gated: accept its terms on its page on {self.hub}, and set {TOKEN} to your token"
            )
        if status == 403 and _reads(error.response.request):
            return HubError(f"this token may not read {repo} on {self.hub} ({why}): check {TOKEN} and its rights")
        if status == 403:
            return HubError(f"this token may not write to {repo} on {self.hub} ({why}): check {TOKEN} and its rights")
        if status == 402:
            return HubError(self._unpaid(repo, why))
        return refused(self.hub, repo, status, why)


def _reads(request: Any) -> bool:
    """Whether it asks for nothing that wants the right to write, as a token for sending to Xet does."""
    return request.method in ("GET", "HEAD") and "/xet-write-token/" not in str(request.url)


def _as_remote(entry: Any) -> RemoteFile:
    return RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else None, None if entry.lfs else entry.blob_id)


def _endpoint() -> str:
    """HF_ENDPOINT as it is now: the client itself reads it when it is imported, maybe long before.

    Raises RecipeError for what is no plain address.
    """
    return endpoint("HF_ENDPOINT", DEFAULT, TOKEN)


def _credential() -> Credential | None:
    from huggingface_hub import get_token

    if found := credential(TOKEN, _endpoint()):
        return found
    saved = get_token()
    if saved:
        refuse_clear(_endpoint(), TOKEN)
    return Credential(saved, None, "hf auth login") if saved else None


def _token() -> str | None:
    found = _credential()
    return found.token if found else None


def _identity(about: Mapping[str, Any]) -> Identity:
    """Name and rights as whoami tells them; of a fine-grained token what it may do anywhere."""
    told = (about.get("auth") or {}).get("accessToken") or {}
    role = told.get("role")
    if role != "fineGrained":
        return Identity(about.get("name"), (role,) if role else None, role != "read" if role else None)
    scoped = (told.get("fineGrained") or {}).get("scoped") or []
    scopes = sorted({str(scope) for one in scoped for scope in one.get("permissions", ())})
    return Identity(about.get("name"), tuple(scopes), any(scope.startswith("repo.write") for scope in scopes))


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # What LFS complains of has a title, and a line for each object.
    return scrub(" ".join(lines[:2]) if lines else type(error).__name__, _token())
