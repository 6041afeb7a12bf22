"""What the person at the page can change."""


class Refused(Exception):
    """A question that cannot be answered as it is; the text says why, and what to do, and is shown on the page."""
