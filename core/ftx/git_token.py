"""How git is handed a token: by a script that answers its questions, for the host the token is meant for and no other.

A host that refuses it would be asked for ever by git-lfs: where FTX_GIT_ASKED names a file, the script keeps count of
the questions there and answers 60 of them.

The script reads FTX_GIT_HOST (host and port), FTX_GIT_USER and FTX_GIT_SECRET from its environment alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ASKPASS = """#!/bin/sh
host=${1#*//}; host=${host#*@}; host=${host%%[/\\"\\']*}
[ -n "$FTX_GIT_SECRET" ] && [ "$host" = "$FTX_GIT_HOST" ] || exit 1
if [ -n "$FTX_GIT_ASKED" ]; then
    asked=$(cat "$FTX_GIT_ASKED" 2>/dev/null)x
    [ ${#asked} -le 60 ] || exit 1
    printf %s "$asked" >"$FTX_GIT_ASKED"
fi
case $1 in
    Username*) printf '%s\\n' "$FTX_GIT_USER" ;;
    *) printf '%s\\n' "$FTX_GIT_SECRET" ;;
esac
"""
USER = "oauth2"  # what git hosts take for the name beside a token when none is given
REMOTE = ("ls-remote", "fetch", "push", "lfs")  # commands of git that speak to the host
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# All that git needs of the user's environment: nothing that changes what it does, and no other token.
PASSED = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def own_environment(private: Path, host: str, user: str, secret: str | None) -> dict[str, str]:
    """The whole environment of a git that is handed `secret` for `host` (host and port) alone.

    `private` is a folder for the script and for what git takes for the user's home: no setting, hook, helper or .netrc
    of the user's takes part.
    """
    askpass = private / "askpass"
    askpass.write_text(ASKPASS, "utf-8")
    askpass.chmod(0o700)
    passed = {key: value for key, value in os.environ.items() if key in PASSED or key.lower() in PROXIES}
    return passed | {
        "HOME": str(private),
        "XDG_CONFIG_HOME": str(private),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ASKPASS": str(askpass),
        "GIT_TERMINAL_PROMPT": "0",
        "GCM_INTERACTIVE": "never",
        "LC_ALL": "C",  # its English sentences are known
        "FTX_GIT_HOST": host,
        "FTX_GIT_USER": user,
        "FTX_GIT_SECRET": secret or "",
    }


def for_command(environment: Mapping[str, str], command: str) -> dict[str, str]:
    """The environment of one command of git, from that of `own_environment`.

    The token is in it when the command speaks to the host, for 60 questions.
    """
    if command not in REMOTE:
        return {name: value for name, value in environment.items() if name != "FTX_GIT_SECRET"}
    asked = Path(environment["HOME"], "asked")
    asked.unlink(missing_ok=True)
    return {**environment, "FTX_GIT_ASKED": str(asked)}
