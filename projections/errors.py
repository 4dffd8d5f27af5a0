"""The base of every error that this package raises on purpose."""


class ProjectionsError(Exception):
    """Something about the log or the read models is wrong; the message names the value and the remedy."""
