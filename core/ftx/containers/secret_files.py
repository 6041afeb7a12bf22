"""Tokens on their way into a container: files that only their reader may open, named by variables, never a value."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ftx.errors import RecipeError, StorageError
from ftx.publish.app_settings import NAME
from ftx.publish.credentials import token
from ftx.redaction import SECRET_VARIABLE

if TYPE_CHECKING:
    from ftx.contracts import Publisher
    from ftx.plugins import Registry

PLACE = "/run/secrets"  # where Docker's and Compose's secrets are, too
SERVE_KEY = "FTX_API_KEY"
OTHERS = {"HF_TOKEN": "HF_TOKEN_PATH"}  # variables by which a hub's own client names a file


def wanted_secrets(words: list[str], registry: Registry, *, network: bool) -> dict[str, str]:
    """The secrets that a command line may need inside, by variable; none where there is no network to use them on.

    They are those of variables, of files, and of `ftx login` for hubs that ask for no name beside a token. Raises
    RecipeError for a file that others may read, HubError for a keyring that gives none.
    """
    if not network:
        return {}
    serves = words[:1] == ["serve"] or words[:2] == ["lmdeploy", "serve"]
    hubs = [name for name in registry.hub_variables() if SECRET_VARIABLE.search(name)]
    names = [SERVE_KEY] if serves else [*hubs, SERVE_KEY, "SERPER_API_KEY", *_named(words)]
    places = {} if serves else _addresses(registry)
    return {name: value for name in names if (value := token(name, places.get(name)))}


def _named(words: list[str]) -> list[str]:
    """The variables whose values `ftx publish --secret NAME` hands to an app."""
    if words[:1] != ["publish"]:
        return []
    apart = [name for option, name in pairwise(words) if option == "--secret"]
    joined = [word.removeprefix("--secret=") for word in words if word.startswith("--secret=")]
    return [name for name in (*apart, *joined) if NAME.fullmatch(name)]


def _addresses(registry: Registry) -> dict[str, str]:
    """Where hubs are whose token is all they ask for, by its variable."""
    kinds = [cast("type[Publisher]", kind) for kind in registry.parts["publisher"].values()]
    alone = [kind for kind in kinds if not any(field.is_required() for field in kind.model_fields.values())]
    return {kind.variable: kind().login_address() for kind in alone if kind.variable and not kind.user_variable}


@contextmanager
def secret_files(secrets: Mapping[str, str], user: tuple[int, int]) -> Iterator[dict[str, Path]]:
    """A file for each secret while the block lasts, readable for `user` alone. Raises RecipeError, StorageError."""
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ftx-secrets-")))
            for name, value in secrets.items():
                _write(folder / name, value)
                _give(folder / name, user)
        except OSError as error:
            raise StorageError(
                f"the temporary folder takes no files: {error.strerror}; name another with TMPDIR"
            ) from None
        yield {name: folder / name for name in secrets}


def refuse_secret_names(names: tuple[str, ...]) -> None:
    """Raises RecipeError for variables that hold secrets: the engine tells variables to whoever asks it."""
    for name in names:
        if SECRET_VARIABLE.search(name.upper()):
            raise RecipeError(
                f"--env {name}: tokens are handed over as files; set {name} or {name}_FILE and leave it out"
            )


def _write(path: Path, value: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(value)


def _give(path: Path, user: tuple[int, int]) -> None:
    if user == (os.geteuid(), os.getegid()):
        return
    try:
        os.chown(path, *user)
    except OSError:
        raise RecipeError(f"--user {user[0]}:{user[1]}: only root can hand tokens to another user") from None
