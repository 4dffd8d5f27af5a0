"""The event log: every accepted event, once, for ever. Its primary key is what makes a repeat harmless."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    Index,
    Integer,
    LargeBinary,
    Table,
    and_,
    case,
    func,
    select,
)

from event_stream.envelope import InvalidEventError, equal_json
from event_stream.event_types import Event, Identity
from event_stream.log_decoding import decode_logged
from projections.database.bulk import find_query, insert_while
from projections.database.columns import IN_BINARY, KeyText, Row, metadata
from projections.database.paging import read_page
from projections.database.pipeline import Query, fetch
from projections.errors import ProjectionsError

table = Table(
    "event_log",
    metadata,
    Column("tenant_id", KeyText, primary_key=True),
    Column("event_id", KeyText, primary_key=True),
    Column("partition", Integer, nullable=False),
    Column("number", BigInteger, nullable=False),  # dense per partition, from 1
    Column("type", KeyText, nullable=False),
    Column("project_id", KeyText),
    Column("time_us", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),  # as received: a rebuild decodes what live decoded
)
Index("event_log_by_number", table.c.partition, table.c.number, unique=True)

_COUNTED_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True)
class Classified:
    """What became of a batch's events, in the order of the stream; `conflicts` are places in the batch."""

    new: list[Event]
    duplicates: list[Event]
    conflicts: list[int]


def classify(batch: list[Event], identities: Sequence[Identity], found: Sequence[Row]) -> Classified:
    """Tell which events of a batch have an identity that is new to the log; those are to be appended.

    `identities` are theirs, and `found` is what answers `bodies_of` those.
    The caller holds the partition's claim, and a tenant is always on one partition; so nobody else decides about these
    identities meanwhile. The first in the stream wins: equal content is a duplicate, other content a conflict.
    """
    if not found and len(set(identities)) == len(batch):
        return Classified(batch, [], [])  # nearly always
    return _told_apart(batch, identities, _by_identity(found))


def append_while(
    connection: Connection, partition: int, events: Sequence[Event], last_number: int
) -> AbstractContextManager[None]:
    """Append events that are new to the log, numbered from `last_number` + 1, while a block runs (`bulk.inserting`)."""
    rows = [
        (tenant_id, event_id, partition, number, type_, project_id, time_us, body)
        for number, (tenant_id, event_id, type_, _, time_us, project_id, _, body) in enumerate(events, last_number + 1)
    ]
    return insert_while(connection, table, rows)


def find_bodies(connection: Connection, identities: Sequence[Identity]) -> dict[Identity, bytes]:
    """Return the bodies of the events that are in the log, by identity."""
    (found,) = fetch(connection, bodies_query(connection, identities))
    return _by_identity(found)


def bodies_query(connection: Connection, identities: Sequence[Identity]) -> Query | None:
    """Return the question for the events that are in the log: identity and body."""
    return find_query(connection, table, [table.c.tenant_id, table.c.event_id, table.c.body], identities)


class UndecodableError(ProjectionsError):
    """An event was accepted once, and this release cannot decode it any more. Its reason is told, not its content."""

    def __init__(self, logged: "LoggedEvent", why: str) -> None:
        super().__init__(f"event {logged.event_id} of tenant {logged.tenant_id} cannot be decoded any more: {why}")


class LoggedEvent(NamedTuple):
    """An event of the log; `body` is None where nobody asked for it."""

    tenant_id: str
    event_id: str
    number: int
    type: str
    project_id: str | None
    time_us: int
    body: bytes | None

    @property
    def place(self) -> "LogPosition":
        """Which event has its number."""
        return LogPosition(self.number, (self.tenant_id, self.event_id))

    def decoded(self) -> Event | None:
        """Return the event as it was when it was applied; None where nobody asked. Raises UndecodableError."""
        if self.body is None:
            return None
        try:
            event = decode_logged(self.body, self.type)
        except InvalidEventError as error:
            raise UndecodableError(self, error.reason.value) from None
        attributes = (event.tenant_id, event.id, event.type, event.project_id, event.time_us)
        if attributes != (self.tenant_id, self.event_id, self.type, self.project_id, self.time_us):
            raise UndecodableError(self, "its bytes are not what its columns say")
        return event


class LogPosition(NamedTuple):
    """A number of a partition's log, and the event that has it; before the first event it is nobody's."""

    number: int = 0
    identity: Identity | None = None


def read_history(
    connection: Connection, tenant_id: str, after_id: str, up_to: int, unread: Collection[str], limit: int
) -> Sequence[LoggedEvent]:
    """Return the next `limit` events of a tenant by event id, of those numbered up to `up_to`.

    Those of the types `unread` come without their body.
    """
    after = (tenant_id, after_id) if after_id else (tenant_id,)
    columns = _columns(table.c.type.not_in(unread))
    return _logged(read_page(connection, table, columns, after, limit, table.c.number <= up_to))


def read_tail(
    connection: Connection, partition: int, number: int, tenant_id: str, unread: Collection[str], limit: int
) -> Sequence[LoggedEvent]:
    """Return the next `limit` events of a partition, ascending by number, the one at `number` included.

    Those of other tenants, and of the types `unread`, come without their body.
    """
    columns = _columns(and_(table.c.tenant_id == tenant_id, table.c.type.not_in(unread)))
    here = (table.c.partition == partition, table.c.number >= number)
    statement = select(*columns).where(*here).order_by(table.c.number).limit(limit)
    return _logged(connection.execute(statement, execution_options=IN_BINARY))


def tenants_between(connection: Connection, partition: int, after: int, until: int) -> Sequence[str]:
    """Return the tenants of the events numbered from behind `after` up to `until`, in no order."""
    here = (table.c.partition == partition, table.c.number > after, table.c.number <= until)
    return connection.scalars(select(table.c.tenant_id).where(*here).distinct()).all()


def count_by_tenant(connection: Connection, partition: int, after: int, limit: int) -> Sequence[tuple[str, int]]:
    """Return the `limit` tenants with the most events numbered from behind `after` on, and how many those are."""
    mine = (table.c.partition == partition, table.c.number > after)
    counted = func.count().label("counted")
    statement = select(table.c.tenant_id, counted).where(*mine).group_by(table.c.tenant_id)
    rows = connection.execute(statement.order_by(counted.desc(), table.c.tenant_id).limit(limit))
    return [(tenant_id, count) for tenant_id, count in rows]


def count_of(connection: Connection, tenant_id: str) -> int:
    """Return how many events a tenant has, counted in steps, none of which takes long."""
    counted, after_id = 0, ""
    while True:
        mine = select(table.c.event_id).where(table.c.tenant_id == tenant_id, table.c.event_id > after_id)
        step = mine.order_by(table.c.event_id).limit(_COUNTED_AT_ONCE).subquery()
        found: int
        found, last = connection.execute(select(func.count(), func.max(step.c.event_id))).one()
        counted += found
        if found < _COUNTED_AT_ONCE:
            return counted
        after_id = last


def _columns(asked_for: ColumnElement[bool]) -> list[ColumnElement[Any]]:
    body = case((asked_for, table.c.body))
    typed = [table.c.type, table.c.project_id, table.c.time_us]
    return [table.c.tenant_id, table.c.event_id, table.c.number, *typed, body]


def _by_identity(found: Sequence[Row]) -> dict[Identity, bytes]:
    return {(tenant_id, event_id): body for tenant_id, event_id, body in found}


def _logged(found: CursorResult[Any]) -> list[LoggedEvent]:
    """Return events as the driver read them: SQLAlchemy's rows, made of them one by one, would cost as much again."""
    assert found.cursor is not None
    return [*map(LoggedEvent._make, found.cursor.fetchall())]


def _told_apart(batch: list[Event], identities: Sequence[Identity], known: dict[Identity, bytes]) -> Classified:
    accepted = Classified([], [], [])
    for at, (event, identity) in enumerate(zip(batch, identities, strict=True)):
        body = known.get(identity)
        if body is None:
            known[identity] = event.body
            accepted.new.append(event)
        elif equal_json(body, event.body):
            accepted.duplicates.append(event)
        else:
            accepted.conflicts.append(at)
    return accepted
