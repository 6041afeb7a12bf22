"""Publishing to any git host with Git LFS: Gitea, Modelers, a server of one's own."""

from __future__ import annotations

from collections.abc import Iterable

from ftx import Publisher, hookimpl


@hookimpl
def ftx_publishers() -> Iterable[type[Publisher]]:
    from ftx_git.publisher import Git

    return [Git]
