"""Verify: the sums in the rows beside those over the log, by one statement, without folding anything.

A transaction moves rows and log together, and one statement sees one state; so what differs is wrong, at any moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    Table,
    bindparam,
    cast,
    func,
    literal,
    select,
)

from event_stream.upcasting import types_of
from projections.database.columns import Row
from projections.database.fingerprint import fingerprint
from projections.folding.projection import Feed, Projection
from projections.folding.row_checksum import RowChecksum
from projections.transaction import checkpoint, event_log, projection_version

GAPS_MAX = 10


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One row of a rollup, or one group of a feed, whose events are not those of the log; None where there is none."""

    table: Table
    key: Row
    stored: RowChecksum | None
    logged: RowChecksum | None


@dataclass(frozen=True, slots=True)
class LogFault:
    """A partition whose log does not hold all that was applied, which is numbered from 1 without a gap.

    `applied` and `held` count the events that were looked at; `gaps` are the first runs of numbers that are not there,
    both ends included.
    """

    partition: int
    applied: int
    held: int
    gaps: list[tuple[int, int]]


def mismatches(connection: Connection, projection: Projection, tenant_id: str) -> list[Mismatch]:
    """Return what differs between a tenant's rows of a read model and the log, by key.

    Rows that are due to be rebuilt, being of another version or behind, are not looked at.
    """
    width = len(_group(projection))
    found: dict[Row, dict[str, RowChecksum]] = {}
    for line, side, *row in connection.execute(_statement(projection), {"tenant": tenant_id}):
        if line is not None and not projection_version.live_in(projection_version.parse(line), [projection]):
            return []
        found.setdefault(tuple(row[:width]), {})[side] = RowChecksum(*row[width:])
    both = [(key, each.get("stored"), each.get("logged")) for key, each in sorted(found.items(), key=repr)]
    return [Mismatch(projection.table, key, stored, logged) for key, stored, logged in both]


def log_fault(connection: Connection, partition: int, since: int = 0) -> LogFault | None:
    """Return what is wrong with a partition's log behind the number `since`, if anything is."""
    log, at = event_log.table, checkpoint.table
    applied = select(at.c.applied).where(at.c.partition == partition).scalar_subquery()
    here = (log.c.partition == partition) & (log.c.number > since)
    mine = select(applied, func.count(), func.coalesce(func.max(log.c.number), since)).where(here)
    expected, held, last = connection.execute(mine).one()
    if expected == held + since == last:
        return None
    return LogFault(partition, expected - since, held, _gaps(connection, partition, since, expected))


def _gaps(connection: Connection, partition: int, since: int, applied: int) -> list[tuple[int, int]]:
    log = event_log.table
    here = (log.c.partition == partition, log.c.number > since)
    before = func.lag(log.c.number, 1, since).over(order_by=log.c.number)
    numbers = select(log.c.number, before.label("before")).where(*here).subquery()
    behind_gaps = select(numbers.c.before + 1, numbers.c.number - 1).where(numbers.c.number > numbers.c.before + 1)
    found = connection.execute(behind_gaps.order_by(numbers.c.number).limit(GAPS_MAX)).all()
    last = connection.scalar(select(func.max(log.c.number)).where(*here)) or since
    gaps = [(first, until) for first, until in found]
    if last < applied and len(gaps) < GAPS_MAX:
        gaps.append((last + 1, applied))
    return gaps


def _statement(projection: Projection) -> Select[Any] | CompoundSelect[Any]:
    """Return what is on one side and not on the other, as (where the tenant stands, side, key, sums)."""
    log, types = event_log.table, sorted(types_of(projection.reads))
    of_tenant = log.c.tenant_id == bindparam("tenant")
    stored = _stored(projection).cte("stored")
    logged = _summed(projection, log, of_tenant & log.c.type.in_(types)).cte("logged")
    only_stored = select(stored).except_(select(logged)).subquery()
    only_logged = select(logged).except_(select(stored)).subquery()
    # Of the same moment: a drain of another release may just now leave the tenant's rows behind.
    active = projection_version.table
    line = select(active.c.versions).where(active.c.tenant_id == bindparam("tenant")).scalar_subquery()
    return select(line, literal("stored"), only_stored).union_all(select(line, literal("logged"), only_logged))


def _stored(projection: Projection) -> Select[Any]:
    """Return the keys and sums that a tenant's rows hold; an entry of a feed is one event."""
    table = projection.table
    of_tenant = next(iter(table.primary_key.columns)) == bindparam("tenant")
    if isinstance(projection, Feed):
        return _summed(projection, table, of_tenant)
    return select(*table.primary_key.columns, table.c.event_count, table.c.fingerprint).where(of_tenant)


def _summed(projection: Projection, events: Table, of_tenant: ColumnElement[bool]) -> Select[Any]:
    """Return the keys and sums of events, of a feed's those that it keeps."""
    event_id, group = events.c.event_id, [events.c[column.name] for column in _group(projection)]
    rows = select(*group, event_id).where(of_tenant)
    if isinstance(projection, Feed):
        order = [events.c[column.name].desc() for column in projection.order]
        rank = func.row_number().over(partition_by=group, order_by=order).label("rank")
        ranked = rows.add_columns(rank).subquery()
        rows = select(ranked).where(ranked.c.rank <= projection.keep)
    found = rows.subquery()
    key = list(found.c)[: len(group)]
    total = cast(func.sum(fingerprint(found.c.event_id)), BigInteger)
    return select(*key, func.count(), total).group_by(*key)


def _group(projection: Projection) -> Sequence[Column[Any]]:
    """Return the columns that name a row of a rollup, or a group of a feed; the log has columns of the same names."""
    return projection.group if isinstance(projection, Feed) else list(projection.table.primary_key.columns)
