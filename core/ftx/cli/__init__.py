"""The command line. In `run` alone a mistake, also a name too long for a file, becomes a sentence and an exit code."""

from __future__ import annotations

import os
import sys

from ftx.cli.group import main_group
from ftx.errors import STOPPED_AT_ONCE, FtxError, OutOfMemory, RecipeError, lacks_memory
from ftx.redaction import guard
from ftx.user_paths import too_long


def main() -> None:
    """Entry point of `ftx`."""
    guard()
    sys.exit(run(sys.argv[1:]))


def _hush_libraries() -> None:
    """Keep what libraries tell their own developers from people who tune models; `python -W` brings it back."""
    import logging
    import warnings

    for category in (DeprecationWarning, FutureWarning):
        warnings.simplefilter("ignore", category)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code. A bug keeps its traceback."""
    import click

    from ftx.console import Console

    console = Console(json_lines="--json" in arguments)
    if not sys.warnoptions:
        _hush_libraries()
    try:
        # click returns the code of Context.exit; commands return nothing.
        done = main_group().main(arguments, prog_name="ftx", standalone_mode=False)
    except FtxError as error:
        console.error(error.kind, error.exit_code, error.problems)
        return error.exit_code
    except click.ClickException as error:
        console.error("usage", 2, [error.format_message()])
        return 2
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does: nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, click.Abort):
        console.error("interrupted", STOPPED_AT_ONCE, ["stopped at once; what was saved before is whole"])
        return STOPPED_AT_ONCE
    except OSError as error:
        if not (problem := too_long(error)):
            raise
        console.error(RecipeError.kind, RecipeError.exit_code, [problem])
        return RecipeError.exit_code
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        console.error(OutOfMemory.kind, OutOfMemory.exit_code, ["there is not enough memory for this model"])
        return OutOfMemory.exit_code
    return done if isinstance(done, int) else 0
