"""The base of every error that this package raises on purpose."""


class WorkersError(Exception):
    """Something about jobs or processes is wrong; the message names the value and the remedy."""
