"""What operators do with dead letters: select, look, discard. Parking and closing are the transaction's business."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, false, or_, select, update

from event_stream.entries import Position
from projections.transaction.dead_letters import DISCARDED, is_open, table

PAGE = 500


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A letter as it is stored; `body` holds at most its first 64 KiB, `body_length` and `body_sha256` tell of all."""

    id: str
    state: str
    reason: str
    detail: str
    partition: int
    position: Position
    tenant_id: str | None
    event_id: str | None
    times_seen: int
    first_seen_us: int
    last_seen_us: int
    body_length: int
    body_sha256: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Selection:
    """Which open letters are meant: those whose id begins with one of `ids`, else of a reason, of a tenant, or all."""

    ids: tuple[str, ...] = ()
    reason: str | None = None
    tenant_id: str | None = None
    closed_too: bool = False

    def condition(self) -> ColumnElement[bool]:
        """Return the condition that the letters meet."""
        conditions: list[ColumnElement[bool]] = []
        if not self.closed_too:
            conditions.append(is_open)
        if self.ids:
            conditions.append(or_(false(), *(table.c.id.startswith(id_, autoescape=True) for id_ in self.ids)))
        if self.reason is not None:
            conditions.append(table.c.reason == self.reason)
        if self.tenant_id is not None:
            conditions.append(table.c.tenant_id == self.tenant_id)
        return and_(True, *conditions)


def latest(connection: Connection, selection: Selection, limit: int) -> list[StoredDeadLetter]:
    """Return at most `limit` letters, those seen last first."""
    statement = select(table).where(selection.condition()).order_by(table.c.last_seen_us.desc(), table.c.id)
    return [_stored(row) for row in connection.execute(statement.limit(limit)).mappings()]


def pages(connection: Connection, selection: Selection) -> Iterator[list[StoredDeadLetter]]:
    """Yield all letters in pages, in the order of their ids; what changes meanwhile is seen or not."""
    after = ""
    while True:
        statement = select(table).where(selection.condition(), table.c.id > after).order_by(table.c.id).limit(PAGE)
        page = [_stored(row) for row in connection.execute(statement).mappings()]
        if not page:
            return
        yield page
        after = page[-1].id


def discard(connection: Connection, selection: Selection) -> int:
    """Close letters for good; returns how many. One that is seen again opens again."""
    return connection.execute(update(table).where(selection.condition()).values(state=DISCARDED)).rowcount


def _stored(row: RowMapping) -> StoredDeadLetter:
    columns = {str(name): value for name, value in row.items()}
    position = Position(columns.pop("position_ms"), columns.pop("position_seq"))
    return StoredDeadLetter(position=position, **columns)
