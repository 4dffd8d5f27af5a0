"""Dead-letter administration: lets operators select, list and discard dead letters.

Storing and closing them belongs to the transaction (`projections/transaction/dead_letters.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, func, select, update

from event_stream.streams.entries import Position
from projections.database.columns import to_unsigned
from projections.transaction.dead_letters import DISCARDED, is_open, table

PAGE_SIZE = 500


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter as stored. `body` is cut at 64 KiB; `body_length` and `body_sha256` describe the whole body."""

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
    """Selects dead letters by id, reason and tenant; without any of them, all. Closed ones only on request."""

    ids: tuple[str, ...] = ()
    reason: str | None = None
    tenant_id: str | None = None
    include_closed: bool = False

    def condition(self) -> ColumnElement[bool]:
        """Return the selection as an SQL condition."""
        conditions: list[ColumnElement[bool]] = []
        if not self.include_closed:
            conditions.append(is_open)
        if self.ids:
            conditions.append(table.c.id.in_(self.ids))
        if self.reason is not None:
            conditions.append(table.c.reason == self.reason)
        if self.tenant_id is not None:
            conditions.append(table.c.tenant_id == self.tenant_id)
        return and_(True, *conditions)


def find_ids(connection: Connection, beginning: str, limit: int) -> list[str]:
    """Return at most `limit` ids, of open or closed dead letters, that begin with these hexadecimal digits."""
    # "g" sorts after all digits. Unlike a pattern, a range is found with the primary key.
    begins = (table.c.id >= beginning) & (table.c.id < beginning + "g")
    return list(connection.scalars(select(table.c.id).where(begins).order_by(table.c.id).limit(limit)))


def count(connection: Connection, selection: Selection) -> int:
    """Return the number of dead letters."""
    return connection.execute(select(func.count()).select_from(table).where(selection.condition())).scalar_one()


def list_latest(connection: Connection, selection: Selection, limit: int) -> list[StoredDeadLetter]:
    """Return at most `limit` dead letters, the most recently seen first."""
    statement = select(table).where(selection.condition()).order_by(table.c.last_seen_us.desc(), table.c.id)
    return [_stored(row) for row in connection.execute(statement.limit(limit)).mappings()]


def iter_pages(connection: Connection, selection: Selection) -> Iterator[list[StoredDeadLetter]]:
    """Yield the dead letters that are selected now, in pages, in the order of their positions.

    One that is no longer selected when its page is read is left out. Across partitions, the order is that of time.
    """
    columns = (table.c.position_ms, table.c.position_seq, table.c.partition, table.c.id)
    # Sorted here, since the database stores the unsigned numbers as signed ones.
    ids = [
        id_
        for *_, id_ in sorted(
            (to_unsigned(ms), to_unsigned(seq), partition, id_)
            for ms, seq, partition, id_ in connection.execute(select(*columns).where(selection.condition()))
        )
    ]
    for first in range(0, len(ids), PAGE_SIZE):
        page_ids = ids[first : first + PAGE_SIZE]
        statement = select(table).where(selection.condition(), table.c.id.in_(page_ids))
        found = {row["id"]: _stored(row) for row in connection.execute(statement).mappings()}
        if page := [found[id_] for id_ in page_ids if id_ in found]:
            yield page


def discard(connection: Connection, selection: Selection) -> int:
    """Close dead letters, and return how many. A discarded one opens again if its entry is seen again."""
    return connection.execute(update(table).where(selection.condition()).values(state=DISCARDED)).rowcount


def _stored(row: RowMapping) -> StoredDeadLetter:
    columns = {str(name): value for name, value in row.items()}
    position = Position(to_unsigned(columns.pop("position_ms")), to_unsigned(columns.pop("position_seq")))
    return StoredDeadLetter(position=position, **columns)
