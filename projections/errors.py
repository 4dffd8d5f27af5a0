"""The base class of the errors that this package raises."""


class ProjectionsError(Exception):
    """Base class of the errors about the event log and the read models."""
