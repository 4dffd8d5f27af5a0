"""Dead-letter administration: lets operators select, list and discard dead letters, and deletes old ones.

All of it works in pages, so that no statement or transaction takes long, however many dead letters there are. Storing
and closing them belongs to the transaction (`projections/transaction/dead_letters.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, and_, delete, select, tuple_

from event_stream.streams.entries import Position
from projections.database.columns import Row, to_unsigned
from projections.transaction import dead_letter_counts, dead_letters
from projections.transaction.dead_letters import DISCARDED, is_open, table

PAGE_SIZE = 500
KEYS_PAGE_SIZE = 2_000
_GROUP_ORDER = (table.c.bucket, table.c.reason, table.c.last_seen_us, table.c.id)


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter as stored. `body` is cut at 64 KiB, and None once it is closed.

    `body_length` and `body_sha256` describe the whole body. `bucket` is its tenant, or `#<partition>` if the bytes name
    no tenant.
    """

    id: str
    state: str
    reason: str
    bucket: str
    detail: str
    partition: int
    position: Position
    tenant_id: str | None
    event_id: str | None
    times_seen: int
    first_seen_us: int
    last_seen_us: int
    closed_us: int | None
    body_length: int
    body_sha256: str
    body: bytes | None


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
            conditions.append(table.c.bucket == self.tenant_id)
        return and_(True, *conditions)


@dataclass(frozen=True, slots=True)
class Discarded:
    """How many dead letters were closed, and how many that were only counted are not counted any more."""

    closed: int
    not_kept: int


def find_ids(connection: Connection, beginning: str, limit: int) -> list[str]:
    """Return at most `limit` ids, of open or closed dead letters, that begin with these hexadecimal digits."""
    # "g" sorts after all digits. Unlike a pattern, a range is found with the primary key.
    begins = (table.c.id >= beginning) & (table.c.id < beginning + "g")
    return list(connection.scalars(select(table.c.id).where(begins).order_by(table.c.id).limit(limit)))


def find_closed_ids(connection: Connection, ids: Sequence[str]) -> list[str]:
    """Return those of these dead letters that are closed, so that their bytes are gone."""
    return list(connection.scalars(select(table.c.id).where(table.c.id.in_(ids), ~is_open).order_by(table.c.id)))


def count_open(connection: Connection) -> int:
    """Return the number of open dead letters, with those that are only counted."""
    return sum(count.total for count in dead_letter_counts.count_open_by_reason(connection).values())


def iter_latest(connection: Connection, selection: Selection, limit: int) -> Iterator[StoredDeadLetter]:
    """Yield at most `limit` dead letters, the most recently seen first."""
    latest = select(table.c.id).where(selection.condition()).order_by(table.c.last_seen_us.desc())
    for page in _read_pages(connection, connection.scalars(latest.limit(limit)).all()):
        yield from page


def iter_pages(connection: Connection, selection: Selection) -> Iterator[list[StoredDeadLetter]]:
    """Yield the open dead letters that are selected now, in pages, in the order of their positions.

    One that is no longer open when its page is read is left out. Across partitions, the order is that of time.
    """
    # Compact, because there may be millions; and sorted here, since the database stores unsigned numbers as signed.
    keys = sorted(_sort_key(row) for page in _key_pages(connection, selection) for row in page)
    yield from _read_pages(connection, [key[-32:].hex() for key in keys], is_open)


def discard(engine: Engine, selection: Selection, on_progress: Callable[[int], None] = lambda _: None) -> Discarded:
    """Close open dead letters and drop their bytes, in one transaction per page.

    A discarded one opens again if its entry is seen again. Interrupted, it can be repeated.
    """
    closed, not_kept, after = 0, 0, None
    while True:
        with engine.begin() as connection:
            page = _key_page(connection, selection, after)
            counts = dead_letters.close(connection, [id_ for _, _, _, id_, *_ in page], DISCARDED)
            dead_letter_counts.add(connection, {group: -number for group, number in counts.items()}, {})
        closed += sum(counts.values())
        on_progress(sum(counts.values()))
        if len(page) < KEYS_PAGE_SIZE:
            break
        after = tuple(page[-1])[:4]
    if not selection.ids:
        with engine.begin() as connection:
            not_kept = dead_letter_counts.clear_not_kept(connection, selection.tenant_id, selection.reason)
    return Discarded(closed, not_kept)


def delete_closed(connection: Connection, before_us: int, limit: int) -> int:
    """Delete at most `limit` dead letters that were closed before a time, the oldest first; returns how many."""
    oldest = select(table.c.id).where(table.c.closed_us < before_us).order_by(table.c.closed_us).limit(limit)
    # Two dispatchers delete different ones.
    ids = connection.scalars(oldest.with_for_update(skip_locked=True)).all()
    connection.execute(delete(table).where(table.c.id.in_(ids), table.c.closed_us < before_us))
    return len(ids)


def _key_pages(connection: Connection, selection: Selection) -> Iterator[Sequence[Row]]:
    """Yield the order and position of the selected open dead letters, in pages in the order of their groups."""
    after = None
    while page := _key_page(connection, selection, after):
        yield page
        after = tuple(page[-1])[:4]


def _key_page(connection: Connection, selection: Selection, after: Row | None) -> Sequence[Row]:
    """Return the columns of _GROUP_ORDER, the position and the partition of the next selected dead letters."""
    columns = (*_GROUP_ORDER, table.c.position_ms, table.c.position_seq, table.c.partition)
    statement = select(*columns).where(is_open, selection.condition())
    if after is not None:
        statement = statement.where(tuple_(*_GROUP_ORDER) > tuple_(*after))
    return connection.execute(statement.order_by(*_GROUP_ORDER).limit(KEYS_PAGE_SIZE)).all()


def _sort_key(row: Row) -> bytes:
    """Return a key that sorts by position, partition and id, and ends with the id's 32 bytes."""
    *_, id_, ms, seq, partition = row
    numbers = (to_unsigned(ms), to_unsigned(seq), partition)
    return b"".join(number.to_bytes(8) for number in numbers) + bytes.fromhex(id_)


def _read_pages(
    connection: Connection, ids: Sequence[str], *conditions: ColumnElement[bool]
) -> Iterator[list[StoredDeadLetter]]:
    """Yield the dead letters with these ids in their order, in pages; those that do not exist are left out."""
    remaining = iter(ids)
    while page_ids := list(islice(remaining, PAGE_SIZE)):
        statement = select(table).where(table.c.id.in_(page_ids), *conditions)
        found = {row["id"]: _stored(row) for row in connection.execute(statement).mappings()}
        if page := [found[id_] for id_ in page_ids if id_ in found]:
            yield page


def _stored(row: RowMapping) -> StoredDeadLetter:
    columns = {str(name): value for name, value in row.items() if name != table.c.was_open.name}
    position = Position(to_unsigned(columns.pop("position_ms")), to_unsigned(columns.pop("position_seq")))
    return StoredDeadLetter(position=position, **columns)
