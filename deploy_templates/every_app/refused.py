"""What people can change: those at the page, and those who start the app."""


class Refused(Exception):
    """A question that cannot be answered as it is; the text says why, and what to do, and is shown on the page."""


class CannotStart(Exception):
    """The app lacks something; the text says what, and what to do."""
