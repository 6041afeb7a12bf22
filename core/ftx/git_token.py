"""How git is handed a token: by a script that answers its questions, for the host the token is meant for and no other.

A host that refuses it would be asked for ever by git-lfs: where FTX_GIT_ASKED names a file, the script keeps count of
the questions there and answers 60 of them.

The script reads FTX_GIT_HOST (host and port), FTX_GIT_USER and FTX_GIT_SECRET from its environment alone.
"""

from __future__ import annotations

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
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
