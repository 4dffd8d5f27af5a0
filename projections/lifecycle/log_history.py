"""Reads the event log for a rebuild: the history of one tenant by event id, and a partition's tail by number."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, CursorResult, and_, case, select

from event_stream.errors import InvalidEventError
from event_stream.events.event import Event, Identity
from event_stream.events.log_decoding import decode_logged
from projections.database.columns import BINARY_RESULTS
from projections.database.paging import read_page
from projections.errors import ProjectionsError
from projections.transaction.event_log import table


class UndecodableError(ProjectionsError):
    """An event of the log cannot be decoded by this release. The message has the reason, not the content."""

    def __init__(self, logged: "LoggedEvent", reason: str) -> None:
        super().__init__(f"event {logged.event_id} of tenant {logged.tenant_id} cannot be decoded any more: {reason}")


class LogPosition(NamedTuple):
    """A number in a partition's log, and the identity of its event; number 0 is before the first event."""

    number: int = 0
    identity: Identity | None = None


class LoggedEvent(NamedTuple):
    """An event of the log; `body` is None if it was not read."""

    tenant_id: str
    event_id: str
    number: int
    type: str
    project_id: str | None
    time_us: int
    body: bytes | None

    @property
    def log_position(self) -> LogPosition:
        """Its number and identity."""
        return LogPosition(self.number, (self.tenant_id, self.event_id))

    def decode(self) -> Event | None:
        """Return the event as it was applied, or None if its body was not read; raises UndecodableError."""
        if self.body is None:
            return None
        try:
            event = decode_logged(self.body, self.type)
        except InvalidEventError as error:
            raise UndecodableError(self, error.reason.value) from None
        attributes = (event.tenant_id, event.id, event.type, event.project_id, event.time_us)
        if attributes != (self.tenant_id, self.event_id, self.type, self.project_id, self.time_us):
            raise UndecodableError(self, "its bytes and its columns disagree")
        return event


def read_history(
    connection: Connection, tenant_id: str, after_id: str, up_to: int, skipped_types: Collection[str], limit: int
) -> Sequence[LoggedEvent]:
    """Return the next `limit` events of a tenant that follow event id `after_id` and have numbers up to `up_to`.

    The bodies of `skipped_types` are not read.
    """
    after = (tenant_id, after_id) if after_id else (tenant_id,)
    columns = _columns(table.c.type.not_in(skipped_types))
    return _logged_events(read_page(connection, table, columns, after, limit, table.c.number <= up_to))


def read_tail(
    connection: Connection, partition: int, number: int, tenant_id: str, skipped_types: Collection[str], limit: int
) -> Sequence[LoggedEvent]:
    """Return the next `limit` events of a partition from `number` on, inclusive, in the order of their numbers.

    The bodies of other tenants and of `skipped_types` are not read.
    """
    columns = _columns(and_(table.c.tenant_id == tenant_id, table.c.type.not_in(skipped_types)))
    from_number = (table.c.partition == partition, table.c.number >= number)
    statement = select(*columns).where(*from_number).order_by(table.c.number).limit(limit)
    return _logged_events(connection.execute(statement, execution_options=BINARY_RESULTS))


def _columns(with_body: ColumnElement[bool]) -> list[ColumnElement[Any]]:
    body = case((with_body, table.c.body))
    typed = [table.c.type, table.c.project_id, table.c.time_us]
    return [table.c.tenant_id, table.c.event_id, table.c.number, *typed, body]


def _logged_events(found: CursorResult[Any]) -> list[LoggedEvent]:
    """Return events made from the driver's rows: making SQLAlchemy's rows first would double the cost."""
    assert found.cursor is not None
    return [*map(LoggedEvent._make, found.cursor.fetchall())]
