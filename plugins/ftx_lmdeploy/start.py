"""Runs in LMDeploy's environment: its command line, with the API key from a variable that no process list shows."""

import os
import sys

KEY = "FTX_API_KEY"


def main() -> None:
    """Hand our arguments to LMDeploy."""
    if key := os.environ.pop(KEY, ""):
        sys.argv += ["--api-keys", key]
    from lmdeploy.cli import run  # type: ignore[import-not-found, unused-ignore]

    run()


if __name__ == "__main__":  # LMDeploy's own processes import this file again
    main()
