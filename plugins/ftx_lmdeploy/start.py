"""Runs in LMDeploy's environment: its command line, with the API key from a variable that no process list shows.

The key is that of FTX_API_KEY, or of the file that FTX_API_KEY_FILE names.
"""

import os
import sys
from pathlib import Path

KEY = "FTX_API_KEY"


def api_key() -> str:
    """The key that clients must send, or nothing; a named file without one ends the program."""
    key, named = os.environ.pop(KEY, ""), os.environ.get(f"{KEY}_FILE")
    if key or not named:
        return key
    return Path(named).read_text("utf-8").strip() or sys.exit(f"{KEY}_FILE: {named} holds no key")


def main() -> None:
    """Hand our arguments to LMDeploy."""
    if key := api_key():
        sys.argv += ["--api-keys", key]
    from lmdeploy.cli import run  # type: ignore[import-not-found, unused-ignore]

    run()


if __name__ == "__main__":  # LMDeploy's own processes import this file again
    main()
