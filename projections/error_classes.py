"""Which error means that we are wrong, and which that the world is away: decided here, and nowhere else.

The costliest bug of this kind of system is to take an outage for poison. So only three things are held against an
event: an exception out of our own code, a projection's or an upcaster; a database that refuses the data itself
(SQLSTATE class 22, data exception, or 23, integrity violation); that it is in the log and cannot be decoded any more.
Everything else is the world being away, and is tried again.
"""

import sqlite3
from enum import StrEnum

import psycopg
from sqlalchemy.exc import DBAPIError

from projections.folding.projection import FoldError
from projections.transaction.event_log import UndecodableError

# Even out of a fold, these say something about the machine, not about the event.
_OF_THE_WORLD = (MemoryError, OSError)
_DESCRIPTION_LENGTH_MAX = 300
_OURS = (psycopg.DataError, psycopg.IntegrityError, sqlite3.DataError, sqlite3.IntegrityError)


class ErrorClass(StrEnum):
    """What an error out of `apply`, or of a rebuild, is about."""

    INTERNAL = "internal"
    EXTERNAL = "external"

    @property
    def explained(self) -> str:
        """What that means, for people."""
        return (
            "this release or an event is wrong"
            if self is ErrorClass.INTERNAL
            else "a server or this machine is at fault"
        )


def describe(error: BaseException) -> str:
    """Return what an error out of `apply` says, on one line and without anything that an event holds."""
    original = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, _OURS):
        return f"{type(original).__name__} {getattr(original, 'sqlstate', None) or ''}".strip()
    first, *_ = str(original).strip().splitlines() or [""]
    return f"{type(original).__name__}: {first}"[:_DESCRIPTION_LENGTH_MAX]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether this process has no memory for what it took on: less at once may fit."""
    return isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)


def classify_error(error: BaseException, interruptions: tuple[type[BaseException], ...] = ()) -> ErrorClass:
    """Return what an error out of `apply` is about.

    `interruptions` are exceptions that somebody outside throws into running code, such as a job's time limit.
    """
    if isinstance(error, FoldError):
        cause = error.__cause__
        return ErrorClass.EXTERNAL if isinstance(cause, _OF_THE_WORLD + interruptions) else ErrorClass.INTERNAL
    if isinstance(error, UndecodableError):
        return ErrorClass.INTERNAL
    original = error.orig if isinstance(error, DBAPIError) else error
    return ErrorClass.INTERNAL if isinstance(original, _OURS) else ErrorClass.EXTERNAL
