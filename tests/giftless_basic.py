"""Who may do what on a giftless server: names and passwords, which it has no way of its own for."""

from __future__ import annotations

from typing import Any

from giftless.auth import Unauthorized  # type: ignore[import-not-found]
from giftless.auth.identity import DefaultIdentity, Permission  # type: ignore[import-not-found]


class Basic:
    """Users by their passwords; each may do everything."""

    def __init__(self, users: dict[str, str]) -> None:
        self.users = users

    def __call__(self, request: Any) -> Any:
        given = request.authorization
        if given is None or given.type != "basic":
            return None
        if self.users.get(given.username) != given.password:
            raise Unauthorized("wrong password")
        identity = DefaultIdentity(id=given.username, name=given.username)
        identity.allow(permissions=Permission.all())
        return identity


def basic(users: dict[str, str]) -> Basic:
    """What giftless's settings name."""
    return Basic(users)
