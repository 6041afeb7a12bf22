"""--in-container: a command that runs its own command line in an image."""

from __future__ import annotations

from typing import NoReturn

import click

OPTION = "--in-container"
WORDS = "ftx.words"  # of the context's meta: the command's own, as typed


class Containable(click.Command):
    """Keeps its words, and takes `--in-container` alone or with `=IMAGE`, so that no file is taken for an image."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[WORDS] = [word for word in args if word.partition("=")[0] != OPTION]
        return super().parse_args(ctx, [f"{OPTION}=" if word == OPTION else word for word in args])


def run_contained(context: click.Context, image: str) -> NoReturn:
    """Run the context's command in `image` ("" for the default one) and end with its exit code. Raises FtxError."""
    from ftx.cli.run_inside import run_inside
    from ftx.containers.call import Asked

    words = [str(context.info_name), *context.meta[WORDS]]
    context.exit(run_inside(Asked(words, image=image or None), context.obj))
