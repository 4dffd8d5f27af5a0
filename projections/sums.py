"""Sums: how many events are in a row of a read model, and a fingerprint of which ones.

No fold can say whether it has seen each event once. So what calls the folds adds up, in the row itself, one number for
each event that goes into it. The database adds up the same over the event log, and both must be equal.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import Any, NamedTuple, Self

from sqlalchemy import BigInteger, Column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from event_stream.types import Event

_BYTES = 4


class Sums(NamedTuple):
    """How many events, and the sum of their fingerprints; the last two columns of a rollup's table."""

    event_count: int = 0
    fingerprint: int = 0

    def plus(self, events: Iterable[Event]) -> Self:
        """Return the sums with some events more."""
        added = [fingerprint_of(event.id) for event in events]
        return type(self)(self.event_count + len(added), self.fingerprint + sum(added))


def columns() -> tuple[Column[Any], Column[Any]]:
    """Return the columns that hold the sums."""
    return tuple(Column(name, BigInteger, nullable=False) for name in Sums._fields)  # type: ignore[return-value]


def fingerprint_of(event_id: str) -> int:
    """Return 32 bits of an event id's hash: one that PostgreSQL has too, and that ids in sequence do not cancel out."""
    return int.from_bytes(sha256(event_id.encode()).digest()[:_BYTES])


class fingerprint(GenericFunction[int]):  # noqa: N801 (SQLAlchemy's functions are called like SQL's)
    """The fingerprint of an event id, for the database to compute."""

    type = BigInteger()
    inherit_cache = True


@compiles(fingerprint, "postgresql")
def _in_postgresql(element: fingerprint, compiler: SQLCompiler, **options: Any) -> str:
    hashed = f"sha256(convert_to({compiler.process(element.clauses, **options)}, 'UTF8'))"
    return f"('x' || encode(substr({hashed}, 1, {_BYTES}), 'hex'))::bit({8 * _BYTES})::bigint"
