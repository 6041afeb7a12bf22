"""The model from OpenXLab's git host, at the commit that was named: git and git-lfs, which packages.txt installs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from refused import CannotStart
from settings import HERE

HOST = os.environ.get("OPENXLAB_GIT", "https://code.openxlab.org.cn")
# Git asks this for the name and the token of a private model, which are set as variables of the app.
ASKPASS = '#!/bin/sh\ncase $1 in Username*) echo "$OPENXLAB_USER" ;; *) echo "$OPENXLAB_TOKEN" ;; esac\n'


def fetched(repo: str, revision: str) -> Path:
    """The folder with the model's files, whole or not there. Raises CannotStart."""
    folder = HERE / f"fetched-{revision[:12]}"
    if (folder / "whole").is_file():
        return folder
    folder.mkdir(exist_ok=True)
    source, large = f"{HOST}/{repo}.git", ["-c", f"lfs.url={HOST}/{repo}.git/info/lfs"]
    _git(folder, "init", "--quiet", ".")
    try:
        _git(folder, "fetch", "--quiet", "--depth=1", source, revision)
    except CannotStart:  # hosts that give no single commits give branches
        _git(folder, "fetch", "--quiet", source, "+refs/heads/*:refs/remotes/origin/*")
    _git(folder, *large, "checkout", "--quiet", "--force", revision)
    _git(folder, *large, "lfs", "pull", source)
    (folder / "whole").touch()
    return folder


def _git(folder: Path, *words: str) -> None:
    """Raises CannotStart with git's reason."""
    script = HERE / "askpass"
    script.write_text(ASKPASS, "utf-8")
    script.chmod(0o700)
    asking = {"GIT_ASKPASS": str(script), "GIT_TERMINAL_PROMPT": "0"}
    command = ["git", "-c", "http.followRedirects=false", *words]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **asking}, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise CannotStart(
            f"The model cannot be fetched from {HOST}: {why}; while it is private set OPENXLAB_USER and OPENXLAB_TOKEN "
            "as variables of the app"
        )
