"""Hugging Face's repositories filled by git and git-lfs: where the hub's own client, or Xet, does not get through."""

from __future__ import annotations

from collections.abc import Callable

from ftx import Bundle, HubError, RecipeError, Remote
from ftx.git_token import USER
from ftx.publish.git_lfs import GitHost
from ftx_huggingface.publisher import TOKEN, HuggingFace, _endpoint, _token

LARGEST = 5_000_000_000  # bytes of one file: above it the hub wants parts, which git-lfs alone does not make


class ByGit(HuggingFace):
    """A model repository that the client makes and asks about, and git fills."""

    in_parts = False

    def push(self, repo: str, bundle: Bundle, remote: Remote | None, sent: Callable[[int], None]) -> str:
        for name, about in bundle.files.items():
            if about.size > LARGEST:
                raise RecipeError(f"--set by=git: {name} is larger than the 5 GB that git may send here; leave it out")
        if remote is None:
            with self._asking(repo):
                self._create(repo, self._api(), bundle)
            remote = self.listed(repo)
        if remote is None:
            raise HubError(f"{self.hub} made {repo}, and does not show it yet; run the same command again")
        return GitHost(self.hub, f"{_endpoint()}/{repo}.git", USER, _token(), TOKEN).push(bundle, remote, sent)
