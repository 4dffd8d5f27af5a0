"""Row checksums: how many events are in a row of a read model, and the sum of their fingerprints.

A row does not show whether each event was folded exactly once. So each row also counts its events and sums their
fingerprints, and `verify` compares both with the same sums over the event log.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

from sqlalchemy import BigInteger, Column

from event_stream.events.event import Event
from projections.database.fingerprint import fingerprint_of


class RowChecksum(NamedTuple):
    """The number of events in a row and the sum of their fingerprints: the last two columns of a rollup's table."""

    event_count: int = 0
    fingerprint: int = 0

    def plus(self, events: Iterable[Event]) -> Self:
        """Return the checksum after more events."""
        added = [fingerprint_of(event.id) for event in events]
        return type(self)(self.event_count + len(added), self.fingerprint + sum(added))


def columns() -> tuple[Column[Any], Column[Any]]:
    """Return the columns of the checksum."""
    return tuple(Column(name, BigInteger, nullable=False) for name in RowChecksum._fields)  # type: ignore[return-value]
