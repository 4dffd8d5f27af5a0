"""Classify errors of a transaction as internal or external (docs/decisions/0015-classify-errors-in-one-place.md).

An internal error is a problem of an event or of this release, so trying again does not help:

* a projection or an upcaster raised an exception;
* the database refused the data (SQLSTATE class 22, data exception, or 23, integrity violation), or its driver could not
  encode them;
* an event of the event log cannot be decoded;
* an event that this release cannot apply has no room as a dead letter.

Every other error is external and is tried again, because an outage must never turn events into dead letters.
"""

import sqlite3
import struct
from enum import StrEnum

import psycopg
from sqlalchemy.exc import DBAPIError

from projections.folding.projection import FoldError
from projections.lifecycle.log_history import UndecodableError
from projections.transaction.dead_letter_counts import DeadLettersFullError

# A fold that raises one of these has met a problem of the machine, not of the event.
_MACHINE_ERRORS = (MemoryError, OSError)
_DESCRIPTION_LENGTH_MAX = 300
_DATA_ERRORS = (
    *(psycopg.DataError, psycopg.IntegrityError, sqlite3.DataError, sqlite3.IntegrityError),
    # Raised by drivers for a text or a number that does not fit into the connection's encoding or the column's type.
    *(UnicodeError, OverflowError, struct.error),
)


class ErrorClass(StrEnum):
    """Whether an error is a problem of this release or an event, or of a server or the machine."""

    INTERNAL = "internal"
    EXTERNAL = "external"

    @property
    def explanation(self) -> str:
        """One phrase that explains the class to an operator."""
        return (
            "this release or an event is wrong"
            if self is ErrorClass.INTERNAL
            else "a server or this machine is at fault"
        )


def describe(error: BaseException) -> str:
    """Return an error's type and message on one line, without event data."""
    original = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, _DATA_ERRORS):
        return f"{type(original).__name__} {getattr(original, 'sqlstate', None) or ''}".strip()
    first, *_ = str(original).strip().splitlines() or [""]
    return f"{type(original).__name__}: {first}"[:_DESCRIPTION_LENGTH_MAX]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether this process ran out of memory, so that a smaller batch may succeed."""
    return isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)


def classify_error(error: BaseException, interruptions: tuple[type[BaseException], ...] = ()) -> ErrorClass:
    """Return the class of an error from `apply` or a rebuild.

    `interruptions` are exceptions that are thrown into running code from outside, such as a job's time limit.
    """
    if isinstance(error, FoldError):
        cause = error.__cause__
        return ErrorClass.EXTERNAL if isinstance(cause, _MACHINE_ERRORS + interruptions) else ErrorClass.INTERNAL
    if isinstance(error, (UndecodableError, DeadLettersFullError)):
        return ErrorClass.INTERNAL
    original = error.orig if isinstance(error, DBAPIError) else error
    return ErrorClass.INTERNAL if isinstance(original, _DATA_ERRORS) else ErrorClass.EXTERNAL
