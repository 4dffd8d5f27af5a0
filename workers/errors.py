"""The base class of the errors that this package raises."""


class WorkersError(Exception):
    """Base class of the errors about jobs and processes."""
