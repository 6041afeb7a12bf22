"""Data sets on the Hugging Face Hub, or on a mirror of it that HF_ENDPOINT names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ftx.errors import DataError, FtxError, HubError, StorageError
from ftx.publish import addresses
from ftx.publish.credentials import scrub, token
from ftx_sources.files import READERS
from ftx_sources.snapshot import NO_DATA, Snapshot

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

DEFAULT = "https://huggingface.co"
DEFAULT_BRANCH = "main"


class HuggingFace(Snapshot):
    """A data set on the Hugging Face Hub, kept in huggingface_hub's own cache.

    The token is HF_TOKEN, of `ftx login`, or of `hf auth login`. HF_HUB_OFFLINE=1 reads the cache only.
    """

    name = "huggingface"
    hub = "Hugging Face"
    repo_type: ClassVar[str] = "dataset"
    what: ClassVar[str] = "data set"
    passed_over: ClassVar[frozenset[str]] = frozenset(NO_DATA)

    def model_post_init(self, context: Any, /) -> None:
        endpoint()  # the client cannot be imported with a broken one

    def _find_commit(self) -> str:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=endpoint(), token=token_of_user(), library_name="ftx")
        with self._asking():
            return str(api.resolve_revision(self.repo, repo_type=self.repo_type, revision=self.revision).resolved)

    def _folder(self) -> Path:
        from huggingface_hub import snapshot_download

        with self._asking():
            folder = snapshot_download(
                self.repo,
                repo_type=self.repo_type,
                revision=self.commit,
                allow_patterns=self._patterns(),
                # Hidden names, but not "..": the client refuses that, where leaving it out would hide it.
                ignore_patterns=[
                    start + name for name in (".[!.]*", *sorted(self.passed_over)) for start in ("", "*/")
                ],
                endpoint=endpoint(),
                token=token_of_user(),
                library_name="ftx",
            )
        return Path(folder)

    def _patterns(self) -> list[str]:
        return self.files or [_any_case(ending) for ending in READERS]

    def _bounds(self, folder: Path) -> Iterable[Path]:
        # CACHE/datasets--owner--name/snapshots/COMMIT holds links to blobs of the repository or of the whole cache.
        repository = folder.parents[1]
        return (folder, repository / "blobs", repository.parent / "blobs")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what huggingface_hub raises into one sentence."""
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionResolutionError
        from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx2 in version 2

        addresses.refuse_bad_proxies()
        try:
            yield
        except HfHubHTTPError as error:
            raise self._answered(error) from None
        except (EntryNotFoundError, RevisionResolutionError) as error:
            # The client looked into its cache after this failure and found nothing there.
            cause = error.__cause__
            raise (self._answered(cause) if isinstance(cause, HfHubHTTPError) else self._unreachable(error)) from None
        except (httpx.HTTPError, ConnectionError) as error:
            raise self._unreachable(error) from None
        except OSError as error:
            raise self._failed(error) from None
        except ValueError as error:
            # The client refuses paths that leave its cache, and names that no hub gives.
            raise DataError(f"{self.repo} on {self.hub} cannot be downloaded: {_line(error)}") from None
        except RuntimeError as error:  # hf_xet's
            raise HubError(f"{self.repo} could not be downloaded from {self.hub}: {_line(error)}") from None

    def _answered(self, error: HfHubHTTPError) -> HubError:
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        status = error.response.status_code
        if isinstance(error, GatedRepoError):
            return HubError(f"{self.repo} is gated: accept its terms on {self.hub} and set HF_TOKEN to your token")
        if isinstance(error, RevisionNotFoundError):
            return HubError(f"{self.repo} has no revision '{self.revision or DEFAULT_BRANCH}' on {self.hub}")
        if isinstance(error, RepositoryNotFoundError) and status == 404:
            return HubError(f"there is no {self.what} {self.repo} on {self.hub}")
        if status in (401, 403):
            return self._refused()
        return HubError(f"{self.hub} answered {status} for {self.repo}; try again later")

    def _refused(self) -> HubError:
        # Without a token the hub does not tell a private repository from none.
        if token_of_user() is None:
            return HubError(f"{self.repo} on {self.hub} does not exist or is private: set HF_TOKEN if it is private")
        return HubError(f"{self.hub} refuses access to {self.repo} with this token: check HF_TOKEN and its rights")

    def _unreachable(self, error: Exception) -> HubError:
        from huggingface_hub import constants

        if constants.is_offline_mode():
            return HubError(
                f"{self.repo} at '{self.revision or DEFAULT_BRANCH}' is not wholly in the cache of huggingface_hub "
                "and HF_HUB_OFFLINE forbids the network"
            )
        place = endpoint() or constants.ENDPOINT
        why = _line(error.__cause__ or error)
        return HubError(f"{self.hub} ({place}) cannot be reached for {self.repo}: {why}")

    def _failed(self, error: OSError) -> FtxError:
        if error.errno is not None:
            return StorageError(f"{self.repo} could not be kept in huggingface_hub's cache: {error.strerror}")
        return HubError(f"{self.repo} could not be downloaded from {self.hub}: {_line(error)}")


def endpoint() -> str | None:
    """HF_ENDPOINT as it is now: the client itself reads it when it is imported, maybe long before."""
    return addresses.endpoint("HF_ENDPOINT", DEFAULT, "HF_TOKEN") if os.environ.get("HF_ENDPOINT") else None


def _any_case(ending: str) -> str:
    """The pattern of file names with this ending in small or capital letters."""
    return "*" + "".join(f"[{char}{char.upper()}]" if char.isalpha() else char for char in ending)


def token_of_user() -> str | None:
    """HF_TOKEN, that of `ftx login`, or that of `hf auth login`; None without any."""
    from huggingface_hub import get_token

    return token("HF_TOKEN", endpoint() or DEFAULT) or get_token()


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return scrub(lines[0] if lines else type(error).__name__, token_of_user())
