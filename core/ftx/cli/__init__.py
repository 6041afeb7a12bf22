"""The command line. In `run` alone a mistake, also a name too long for a file, becomes a sentence and an exit code."""

from __future__ import annotations

import sys

from ftx.cli.group import main_group
from ftx.errors import STOPPED_AT_ONCE, FtxError, OutOfMemory, RecipeError, StorageError, lacks_memory
from ftx.lasting import outlast, output_lost
from ftx.redaction import guard
from ftx.user_paths import too_long


def main() -> None:
    """Entry point of `ftx`."""
    guard()
    outlast()
    sys.exit(_all_said(run(sys.argv[1:])))


def _all_said(code: int) -> int:
    """`code`, unless all went well but standard output. A reader that went away, as `| head` does, is no failure."""
    from ftx.console import Console

    error = output_lost()
    if code or error is None or isinstance(error, ConnectionError):
        return code
    problem = f"standard output could not be written: {error.strerror}; everything else was done"
    Console().error(StorageError.kind, StorageError.exit_code, [problem])
    return StorageError.exit_code


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
