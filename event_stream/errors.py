"""The base of every error that this package raises on purpose."""


class EventStreamError(Exception):
    """Something about events or streams is wrong; the message names the value and the remedy."""
