"""Logging in to a hub, out of it, and asking it who one is; a token is kept only once the hub has known it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ftx.contracts import Identity, Publisher
from ftx.errors import FtxError, HubError, RecipeError
from ftx.plugins import Registry
from ftx.publish import logins
from ftx.publish.addresses import refuse_clear
from ftx.publish.credentials import Credential
from ftx.publish.logins import Login, Store
from ftx.redaction import remember

SHORTEST, LONGEST = 8, 4096  # characters of a token


@dataclass(frozen=True)
class Account:
    """Who a hub takes the user for. `source` says where the token came from; the token itself is nowhere in here."""

    hub: str
    place: str
    user: str | None
    scopes: tuple[str, ...] | None
    writes: bool | None
    source: str

    @property
    def sentence(self) -> str:
        """For people."""
        rights = {True: ", may publish", False: ", read-only: it downloads and does not publish", None: ""}[self.writes]
        scopes = f" ({', '.join(self.scopes)})" if self.scopes else ""
        return f"{self.hub} ({self.place}): {self.user or 'name not told'}{rights}{scopes}; token of {self.source}"


def checked_token(text: str) -> str:
    """The token in what was typed or piped. Raises RecipeError for what is none; it is never quoted."""
    token = text.strip()
    remember(token)
    if not token:
        raise RecipeError("the token is empty; copy it from the hub's page and run the same command again")
    if any(ord(char) <= 32 or ord(char) > 126 for char in token):
        raise RecipeError("the token holds spaces, line breaks or letters that no token has; copy it alone")
    if not SHORTEST <= len(token) <= LONGEST:
        raise RecipeError(f"the token has {len(token):,} characters, which none has; copy it whole and alone")
    return token


def chosen_store(wanted: str) -> tuple[Store, str | None]:
    """Where a token goes, and why that is not the keyring. Raises RecipeError when --store keyring is not to be had."""
    if wanted == "file":
        return "file", None
    why = logins.why_no_keyring()
    if why is None:
        return "keyring", None
    if wanted == "keyring":
        raise RecipeError(f"--store keyring: {why}; leave --store out to keep the token in a file that is yours alone")
    return "file", why


def login(hub: Publisher, token: str, user: str | None, repo: str | None, store: Store) -> Account:
    """Ask the hub whose the token is, then keep it. Raises HubError for one that the hub does not know.

    RecipeError where it would go there unencrypted.
    """
    remember(token)
    refuse_clear(hub.login_address(), hub.variable)
    try:
        identity = hub.identify(token, user, repo)
    except HubError as error:
        raise _nothing_kept(error) from None
    kept = logins.save(hub.login_address(), hub.name, identity.user or user, token, store)
    return _account(hub, identity, kept.user, _source(kept))


def _nothing_kept(error: HubError) -> HubError:
    return HubError(*(f"{problem}; nothing was stored" for problem in error.problems))


def logout(hub: Publisher) -> Login:
    """Forget the token that was kept for the hub. Raises RecipeError when there is none."""
    found = logins.forget(hub.login_address())
    if found is None:
        raise RecipeError(f"there is no login at {hub.login_address()}; those there are: ftx whoami")
    return found


def whoami(hub: Publisher, login: Login | None = None, repo: str | None = None) -> Account:
    """Who the hub takes the user for, by its own token, or by that of `login` alone.

    Raises HubError without a token and for one that the hub does not know, RepositoryWanted where it tells nothing
    without `repo`, a repository of the user's.
    """
    found = Credential(logins.secret_of(login), login.user, _source(login)) if login else hub.credential()
    if found is None:
        raise HubError(f"there is no token for {hub.hub}: run ftx login {name_of(hub)}, or set {hub.variable}")
    remember(found.token)
    try:
        identity = hub.identify(found.token, found.user, repo)
    except HubError as error:
        raise type(error)(*(f"{problem} (token of {found.source})" for problem in error.problems)) from None
    return _account(hub, identity, found.user, found.source)


def name_of(hub: Publisher) -> str:
    """What `ftx login` calls it."""
    return hub.login_address() if hub.name == "git" else hub.name


def known(registry: Registry) -> Iterator[tuple[Publisher, Login | None]]:
    """Every hub that has a token, readable or not: of those with an address of their own, and of those logged in to.

    With a host that was logged in to goes its login: a variable's token is for the host that the user names with it.
    Raises RecipeError when the list of logins cannot be read.
    """
    told: set[str] = set()
    ours: list[tuple[str, Login | None]] = [(name, None) for name in registry.parts["publisher"]]
    for name, login in [*ours, *((one.hub, one) for one in logins.all_logins())]:
        hub = _made(name, {"host": login.place} if login else {}, registry)
        if hub is None or not hub.variable or logins.normal(hub.login_address()) in told:
            continue
        theirs = login if "host" in type(hub).model_fields else None
        if theirs or _has_token(hub):
            told.add(logins.normal(hub.login_address()))
            yield hub, theirs


def _has_token(hub: Publisher) -> bool:
    try:
        return hub.credential() is not None
    except FtxError:  # there is one, and `whoami` says why it cannot be read
        return True


def _made(name: str, given: dict[str, str], registry: Registry) -> Publisher | None:
    """The publisher with these options, those that it has; None for one that is gone, or wants to be told more."""
    part = registry.parts["publisher"].get(name)
    if part is None:
        return None
    options: dict[str, Any] = {key: value for key, value in given.items() if key in part.model_fields}
    if any(about.is_required() and key not in options for key, about in part.model_fields.items()):
        return None
    try:
        made = part.model_validate(options)
    except ValueError:
        return None
    return made if isinstance(made, Publisher) else None


def _account(hub: Publisher, identity: Identity, user: str | None, source: str) -> Account:
    return Account(hub.name, hub.login_address(), identity.user or user, identity.scopes, identity.writes, source)


def _source(kept: Login) -> str:
    return f"ftx login ({kept.store})"
