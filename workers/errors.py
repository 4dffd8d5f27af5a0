"""The base class of the errors that this package raises."""


class WorkersError(Exception):
    """Something about jobs or processes is wrong. The message names the value and the remedy."""
