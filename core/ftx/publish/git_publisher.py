"""What the publishers to git hosts share: the address, the token, and the steps that git cannot do."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field, field_validator

from ftx.contracts import Bundle, Identity, Publisher, Remote
from ftx.errors import HubError
from ftx.git_token import USER
from ftx.publish.addresses import plain_address
from ftx.publish.git_lfs import GitHost


class GitPublisher(Publisher):
    """HOST/owner/name.git, with a token and a user's name."""

    host: str = Field(description="the git host, as https://git.example.org; the repository is HOST/owner/name.git")
    retries: int = Field(8, ge=1, le=100, description="times that Git LFS tries an object again, up to 10 s apart")

    @field_validator("host")
    @classmethod
    def _address(cls, value: str) -> str:
        return plain_address(value, cls.variable)

    def address(self, repo: str) -> str:
        return f"{self.host}/{repo}"

    def login_address(self) -> str:
        return self.host

    def identify(self, token: str, user: str | None, repo: str | None) -> Identity:
        """git hosts tell no names: what is tried is whether a push would be let in, and nothing is sent."""
        name = user or USER
        probed = repo or f"{name}/ftx-login"
        host = GitHost(self.hub, f"{self.host}/{probed}.git", name, token, self.variable, user or "ftx")
        return Identity(user, None, host.admits(named=repo is not None))

    def listed(self, repo: str, revision: str | None = None) -> Remote | None:
        return self._git(repo).listed(revision)

    def fetch(self, repo: str, remote: Remote, folder: Path) -> None:
        self._git(repo).fetch(remote, folder)

    def push(self, repo: str, bundle: Bundle, remote: Remote | None, sent: Callable[[int], None]) -> str:
        if remote is None:
            steps = " ".join(self.by_hand(repo, bundle.kind))
            raise HubError(f"there is no repository {repo} on {self.host}, and git makes none. {steps}")
        return self._git(repo).push(bundle, remote, sent)

    def by_hand(self, repo: str, kind: str) -> Sequence[str]:
        owner, _, name = repo.partition("/")
        return (
            f"1. Log in at {self.host} as {owner} and choose: new repository.",
            f"2. Name: {name}. Visibility: private. Nothing else: no README, no licence, no .gitignore.",
            f"3. Make an access token that may write; set {self.variable} to it, {self.user_variable} to your name.",
            "4. Run the same ftx publish again.",
        )

    def make_public(self, repo: str) -> Sequence[str]:
        return (f"1. Open {self.address(repo)}, its settings, and set the visibility to public.",)

    def _git(self, repo: str) -> GitHost:
        found = self.credential()
        user = (found.user if found else None) or os.environ.get(self.user_variable)
        return GitHost(
            self.hub,
            f"{self.host}/{repo}.git",
            user or USER,
            found.token if found else None,
            self.variable,
            user or "ftx",
            self.retries,
        )
