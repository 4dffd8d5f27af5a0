"""Sums: how many events are in a row of a read model, and a fingerprint of which ones.

No fold can say whether it has seen each event once. So what calls the folds adds up, in the row itself, one number for
each event that goes into it. The database adds up the same over the event log, and both must be equal.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

from sqlalchemy import BigInteger, Column

from event_stream.event_types import Event
from projections.database.fingerprint import fingerprint_of

_BYTES = 4


class RowChecksum(NamedTuple):
    """How many events, and the sum of their fingerprints; the last two columns of a rollup's table."""

    event_count: int = 0
    fingerprint: int = 0

    def plus(self, events: Iterable[Event]) -> Self:
        """Return the sums with some events more."""
        added = [fingerprint_of(event.id) for event in events]
        return type(self)(self.event_count + len(added), self.fingerprint + sum(added))


def columns() -> tuple[Column[Any], Column[Any]]:
    """Return the columns that hold the sums."""
    return tuple(Column(name, BigInteger, nullable=False) for name in RowChecksum._fields)  # type: ignore[return-value]
