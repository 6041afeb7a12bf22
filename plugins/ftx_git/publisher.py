"""A git host with Git LFS, whoever runs it."""

from __future__ import annotations

from ftx.publish.git_publisher import GitPublisher


class Git(GitPublisher):
    """HOST/owner/name.git. The token is FTX_GIT_TOKEN, with FTX_GIT_USER for the user name."""

    name = "git"
    hub = "the git host"
    variable = "FTX_GIT_TOKEN"
    user_variable = "FTX_GIT_USER"
    takes = ("adapter", "merged", "model", "app")
