"""What an app needs on a hub: secrets, which nobody can read there, variables, which everyone can, and its model."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ftx.checkpoint_files import read_json
from ftx.contracts import AppSettings, Publisher, Remote
from ftx.errors import HubError, RecipeError
from ftx.publish.credentials import login_tokens, token
from ftx.publish.gate import GateError, credentials_in
from ftx.redaction import SHORTEST_SECRET

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PIN = re.compile(r"\s*([\w-]+)\s*==\s*(\d[\w.+!]*)")
LARGEST = 16 << 20  # bytes; a file that holds a secret written out is a text, and shorter


def app_settings(secrets: Sequence[str], variables: Sequence[str]) -> AppSettings:
    """What `--secret NAME` and `--variable NAME=VALUE` name, a secret's value from the environment or a file.

    Raises RecipeError, and GateError for a variable that holds a credential.
    """
    hidden = {}
    for name in secrets:
        if not NAME.fullmatch(name):
            shown = name.partition("=")[0]
            raise RecipeError(
                f"--secret {shown}: give the name alone, letters, digits and '_'; its value comes from the environment "
                f"variable of that name, or from the file that {shown}_FILE names"
            )
        value = token(name)
        if value is None:
            raise RecipeError(f"--secret {name}: set {name} to its value, or {name}_FILE to a file that holds it")
        hidden[name] = value
    public = dict(_variable(one, hidden) for one in variables)
    if both := sorted(set(hidden) & set(public)):
        raise RecipeError(f"--variable {both[0]}: it is a --secret too; give it once")
    return AppSettings(hidden, public)


def _variable(given: str, secrets: Mapping[str, str]) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals or not NAME.fullmatch(name):
        raise RecipeError(f"--variable {name}: write it as NAME=VALUE, the name of letters, digits and '_'")
    found = next(iter(credentials_in(os.fsencode(value))), None)
    if found is None:
        found = next((f"the value of --secret {one}" for one, kept in secrets.items() if kept in value), None)
    if found is None and any(one in value for one in login_tokens()):
        found = "a token that ftx login keeps"
    if found:
        raise GateError(f"--variable {name} holds {found}, and variables are public; give it as --secret {name}")
    return name, value


def refuse_written_secrets(folder: Path, names: Sequence[str], settings: AppSettings) -> None:
    """Raise GateError when a file that is to leave holds a secret's value."""
    looked_for = {name: value for name, value in settings.secrets.items() if len(value) >= SHORTEST_SECRET}
    if not looked_for:
        return
    for name in names:
        path = folder / name
        if path.stat().st_size > LARGEST:
            continue
        content = path.read_bytes()
        for secret, value in looked_for.items():
            if os.fsencode(value) in content:
                raise GateError(
                    f"{name} holds the value of --secret {secret}; take it out, the app reads it when it runs"
                )


def pins(folder: Path) -> dict[str, str]:
    """The exact versions in an app's requirements.txt, by package in small letters."""
    path = folder / "requirements.txt"
    lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    found = (PIN.match(line) for line in lines)
    return {one[1].lower(): one[2] for one in found if one}


def fetched_model(folder: Path, hub: str) -> tuple[str, str] | None:
    """Repository and commit of the model that the app in `folder` fetches from `hub`; None for one that does not."""
    path = folder / "settings.json"
    kept = read_json(path) if path.is_file() else {}
    repo, revision = kept.get("model_repo"), kept.get("model_revision")
    return (str(repo), str(revision)) if repo and kept.get("model_hub") == hub else None


def listed_model(publisher: Publisher, folder: Path) -> Remote | None:
    """The model that an app would fetch from this hub, as it lies there; None for an app that fetches none.

    Raises HubError when it is not there: the model goes first.
    """
    found = fetched_model(folder, publisher.name)
    if found is None:
        return None
    repo, revision = found
    remote = publisher.of_models().listed(repo, revision)
    if remote is None:
        raise HubError(
            f"the app fetches {repo} at {revision[:12]}, which {publisher.hub} does not show this token: publish the "
            f"model first: ftx publish {publisher.name} MODEL --repo {repo}"
        )
    return remote
