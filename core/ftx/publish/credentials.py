"""Tokens: from the environment, from a file that is the user's alone, or from `ftx login`; never from a recipe.

`credential` is the one way to a token for all hubs.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ftx.errors import FtxError
from ftx.publish import logins
from ftx.publish.addresses import refuse_clear
from ftx.publish.private_file import read_private
from ftx.redaction import remember, scrub

__all__ = ["Credential", "credential", "login_tokens", "scrub", "token"]


@dataclass(frozen=True)
class Credential:
    """A token; `user` is the name that goes with it, where one is known. `source` says where it came from."""

    token: str = field(repr=False)
    user: str | None
    source: str


def credential(variable: str, place: str | None = None, user_variable: str | None = None) -> Credential | None:
    """The token in `variable`, else in the file that `variable`_FILE names, else of `ftx login` at the address `place`.

    The user's name is that of `user_variable`, else that of the login. None where no token is. Raises RecipeError for a
    file that others may read and for a `place` that it would go to unencrypted, HubError for a keyring that does not
    give it.
    """
    user = os.environ.get(user_variable, "").strip() if user_variable else ""
    found = _of_environment(variable)
    if found is None and place and (login := logins.login_of(place)):
        found = Credential(logins.secret_of(login), login.user, f"ftx login ({login.store})")
    if found is None:
        return None
    remember(found.token)
    if place:
        refuse_clear(place, variable)
    return Credential(found.token, user or found.user, found.source)


def token(variable: str, place: str | None = None) -> str | None:
    """The token alone."""
    found = credential(variable, place)
    return found.token if found else None


def _of_environment(variable: str) -> Credential | None:
    value = os.environ.get(variable, "").strip()
    if value:
        return Credential(value, None, variable)
    named = os.environ.get(f"{variable}_FILE")
    if not named:
        return None
    value = read_private(Path(named), f"{variable}_FILE").strip()
    return Credential(value, None, f"{variable}_FILE") if value else None


def login_tokens() -> frozenset[str]:
    """The tokens of all logins, by which files are searched; one that cannot be read is nobody's to leak."""
    found = set()
    with suppress(FtxError):
        for login in logins.all_logins():
            with suppress(FtxError):
                found.add(logins.secret_of(login))
    for one in found:
        remember(one)
    return frozenset(found)
