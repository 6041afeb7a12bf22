"""Asking a plugin's program in an environment of its own: JSON in, JSON out, nothing else of ours to be seen there."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ftx.environments import NoEnvironment, named, python_of
from ftx.errors import HubError

if TYPE_CHECKING:
    from ftx.plugins import Registry

# All that such a program sees of the user's environment: the way to the network, and where to write for a while.
PASSED = ("TMPDIR", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def answered(
    name: str, question: Mapping[str, Any], variables: Mapping[str, str], registry: Registry | None = None
) -> dict[str, Any]:
    """What the program of environment `name` answers to `question`, its own home empty and gone afterwards.

    `variables` are handed to it in its environment and taken out of whatever it says. It has no PATH: it can start no
    other program. Raises NoEnvironment, and HubError with its reason when it refuses or fails.
    """
    from ftx.plugins import load_registry

    registry = registry or load_registry()
    program = named(name, registry).program
    if program is None:
        raise NoEnvironment(f"environment '{name}' has no program to ask")
    with TemporaryDirectory(prefix="ftx-home-") as home:
        done = subprocess.run(
            [str(python_of(name, registry)), "-I", "-B", str(program)],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            cwd=home,
            env=_passed(Path(home)) | dict(variables),
            check=False,
        )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise HubError(f"{name}: its client gave no answer: {_last(done.stderr, variables)}") from None
    if problem := answer.get("problem"):
        raise HubError(f"{name}: {_scrubbed(str(problem), variables)}")
    return answer


def _passed(home: Path) -> dict[str, str]:
    passed = {key: value for key, value in os.environ.items() if key in PASSED or key.lower() in PROXIES}
    return {**passed, "HOME": str(home), "PATH": str(home)}


def _last(said: str, variables: Mapping[str, str]) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return _scrubbed(lines[-1], variables) if lines else "no reason was given"


def _scrubbed(text: str, variables: Mapping[str, str]) -> str:
    for value in variables.values():
        text = text.replace(value, "***") if value else text
    return " ".join(text.split())
