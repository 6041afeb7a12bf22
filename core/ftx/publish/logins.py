"""What `ftx login` keeps: for each address a user's name, and the token in the keyring or in our own private file.

The file, `logins.json` in the config folder, lists all logins; a token stands in it only where there is no keyring.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftx.errors import FtxError, HubError, RecipeError, StorageError
from ftx.publish.private_file import read_private, write_private

SERVICE = "ftx"  # what the keyring files our tokens under
Store = Literal["keyring", "file"]


@dataclass(frozen=True)
class Login:
    """A login at `place`, an address, with the publisher `hub`."""

    place: str
    hub: str
    user: str | None
    store: Store


def config_root() -> Path:
    """The folder of what the user told ftx to keep: FTX_CONFIG, else `ftx` in the user's config folder."""
    named = os.environ.get("FTX_CONFIG")
    return Path(named) if named else Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ftx"


def logins_file() -> Path:
    return config_root() / "logins.json"


def all_logins() -> list[Login]:
    """Every login, in the order they were made. Raises RecipeError for a file that is not ours alone, or no such."""
    return [_login(place, about) for place, about in _read().items()]


def login_of(place: str) -> Login | None:
    """The login at an address; None where there is none."""
    about = _read().get(normal(place))
    return _login(normal(place), about) if about is not None else None


def secret_of(login: Login) -> str:
    """The token. Raises HubError when the keyring does not give it."""
    if login.store == "file":
        return str(_read()[login.place]["token"])
    found = _asked(lambda ring: ring.get_password(SERVICE, login.place))
    if not found:
        raise HubError(f"the keyring holds no token for {login.place} any more; run: ftx login {login.hub}")
    return str(found)


def save(place: str, hub: str, user: str | None, token: str, store: Store) -> Login:
    """Keep a token, in place of an older one. Raises StorageError, and RecipeError where there is no such keyring."""
    place = normal(place)
    about: dict[str, Any] = {"hub": hub, "user": user, "store": store}
    with _changing() as kept:
        if store == "keyring":
            _asked(lambda ring: ring.set_password(SERVICE, place, token))
        else:
            about["token"] = token
        before = kept.pop(place, None)
        kept[place] = about
    if before and before["store"] == "keyring" and store == "file":
        with suppress(FtxError):  # what stays there is asked for no more
            _forget_in_keyring(place)
    return _login(place, about)


def forget(place: str) -> Login | None:
    """Remove a login and its token; what it was, None when there was none."""
    with _changing() as kept:
        about = kept.get(normal(place))
        if about is None:
            return None
        login = _login(normal(place), about)
        if login.store == "keyring":
            _forget_in_keyring(login.place)
        del kept[login.place]
    return login


def normal(place: str) -> str:
    """One writing for each address."""
    scheme, colon, rest = place.rstrip("/").partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}{colon}{host.lower()}{slash}{path}"


def why_no_keyring() -> str | None:
    """Why tokens cannot go into a keyring here; None where they can."""
    try:
        ring = _keyring().get_keyring()
    except (FtxError, ImportError, AttributeError) as error:
        return str(error).splitlines()[0]
    # The library's own measure of what is safe: 1 and above. A file that anyone decodes has less.
    if float(getattr(ring, "priority", 0)) < 1:
        return "no keyring answers on this machine"
    return None


def _keyring() -> Any:
    try:
        import keyring
    except ModuleNotFoundError:
        raise RecipeError("the package keyring is not installed: pip install 'ftx[keyring]'") from None
    return keyring


def _asked(what: Callable[[Any], Any]) -> Any:
    """What the keyring answers. Raises HubError when it is locked or fails."""
    ring = _keyring()
    from keyring.errors import KeyringError

    try:
        return what(ring)
    except (KeyringError, ImportError, RuntimeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HubError(f"the keyring does not answer: {why}; unlock it, or log in with --store file") from None


def _forget_in_keyring(place: str) -> None:
    _keyring()  # says what to install
    from keyring.errors import PasswordDeleteError

    def delete(ring: Any) -> None:
        try:
            ring.delete_password(SERVICE, place)
        except PasswordDeleteError:  # it is gone already
            return

    _asked(delete)


def _login(place: str, about: dict[str, Any]) -> Login:
    return Login(place, about["hub"], about["user"], about["store"])


def _read() -> dict[str, dict[str, Any]]:
    path = logins_file()
    if not path.exists():
        return {}
    text = read_private(path, "the logins of ftx")
    try:
        found = json.loads(text)["logins"]
        for place, about in found.items():
            _login(place, about)
            if about["store"] == "file" and not isinstance(about["token"], str):
                raise TypeError("a token is no text")
    except (ValueError, KeyError, TypeError, AttributeError):
        # Nothing of the content is told: it holds tokens.
        raise RecipeError(f"{path} is no list of logins; remove it, and run ftx login again") from None
    return dict(found)


@contextmanager
def _changing() -> Iterator[dict[str, dict[str, Any]]]:
    """The logins, written back when the block ends well; other processes wait meanwhile."""
    path = logins_file()
    try:
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        lock = (path.parent / ".logins.lock").open("w")
    except OSError as error:
        raise StorageError(
            f"the config folder {path.parent} cannot be used: {error.strerror}; name another with FTX_CONFIG"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = _read()
        before = json.dumps(kept)
        yield kept
        if json.dumps(kept) != before:
            write_private(path, json.dumps({"logins": kept}, ensure_ascii=False, indent=1) + "\n")
