"""What people can change: those at the page, and those who start the app."""

from pathlib import Path


class Refused(Exception):
    """A question that cannot be answered as it is; the text says why, and what to do, and is shown on the page."""


class CannotStart(Exception):
    """The app lacks something; the text says what, and what to do."""


def why(error: Exception, folder: Path) -> str:
    """The error's first line, without the path of `folder`."""
    said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return said.splitlines()[0].replace(str(folder), folder.name)
