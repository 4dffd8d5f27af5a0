"""Verify: compares the checksums of a tenant's rows with the same sums over the event log, without folding.

A transaction changes rows and log together, and one statement sees one snapshot. So every difference is an error, even
while drains commit. docs/decisions/0032-verify-with-row-checksums-and-a-refold.md
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

from event_stream.events.upcasting import types_upcast_to
from projections.database.columns import Row
from projections.database.fingerprint import fingerprint
from projections.folding.feed import Feed
from projections.folding.projection import Projection
from projections.folding.row_checksum import RowChecksum
from projections.transaction import checkpoint_table, event_log, projection_state, projection_version

GAPS_MAX = 10


@dataclass(frozen=True, slots=True)
class RowMismatch:
    """A row of a rollup, or a group of a feed, whose events are not those of the log.

    `stored` and `logged` are the checksums of both sides; None if a side has no events.
    """

    table: Table
    key: Row
    stored: RowChecksum | None
    logged: RowChecksum | None


@dataclass(frozen=True, slots=True)
class LogMismatch:
    """A partition whose log does not have the events that were applied, numbered from 1 without gaps.

    `applied` is the expected number of events and `logged` the number found. `gaps` are the first ranges of missing
    numbers, both ends included.
    """

    partition: int
    applied: int
    logged: int
    gaps: list[tuple[int, int]]


def find_row_mismatches(connection: Connection, projection: Projection, tenant_id: str) -> list[RowMismatch]:
    """Return the rows of a tenant in a read model whose events are not those of the log, by key.

    Outdated rows, which are pending a rebuild, are not compared.
    """
    width = len(_group(projection))
    found: dict[Row, dict[str, RowChecksum]] = {}
    for line, side, *row in connection.execute(_difference(projection), {"tenant": tenant_id}):
        if line is not None and not projection_state.up_to_date(projection_state.parse(line), [projection]):
            return []
        found.setdefault(tuple(row[:width]), {})[side] = RowChecksum(*row[width:])
    return [
        RowMismatch(projection.table, key, sides.get("stored"), sides.get("logged"))
        for key, sides in sorted(found.items(), key=repr)
    ]


def find_log_mismatch(
    connection: Connection, partition: int, after: int = 0, up_to: int | None = None
) -> LogMismatch | None:
    """Return how a partition's log after number `after` differs from the checkpoint's count; None if it does not.

    With `up_to`, only the numbers up to that one are compared.
    """
    log, checkpoint = event_log.table, checkpoint_table.table
    applied = select(checkpoint.c.applied).where(checkpoint.c.partition == partition).scalar_subquery()
    numbered = (log.c.partition == partition) & (log.c.number > after)
    if up_to is not None:
        numbered &= log.c.number <= up_to
    statement = select(applied, func.count(), func.coalesce(func.max(log.c.number), after)).where(numbered)
    expected, logged, last = connection.execute(statement).one()
    if up_to is not None:
        expected = min(expected, up_to)
    if expected == logged + after == last:
        return None
    return LogMismatch(partition, expected - after, logged, _gaps(connection, partition, after, expected))


def _gaps(connection: Connection, partition: int, after: int, applied: int) -> list[tuple[int, int]]:
    log = event_log.table
    numbered = (log.c.partition == partition, log.c.number > after)
    before = func.lag(log.c.number, 1, after).over(order_by=log.c.number)
    numbers = select(log.c.number, before.label("before")).where(*numbered).subquery()
    gaps_between = select(numbers.c.before + 1, numbers.c.number - 1).where(numbers.c.number > numbers.c.before + 1)
    found = connection.execute(gaps_between.order_by(numbers.c.number).limit(GAPS_MAX)).all()
    last = connection.scalar(select(func.max(log.c.number)).where(*numbered)) or after
    gaps = [(first, up_to) for first, up_to in found]
    if last < applied and len(gaps) < GAPS_MAX:
        gaps.append((last + 1, applied))
    return gaps


def _difference(projection: Projection) -> Select[Any] | CompoundSelect[Any]:
    """Return the statement for rows on one side only; its rows are (versions of the tenant, side, key, checksum)."""
    log, types = event_log.table, sorted(types_upcast_to(projection.reads))
    of_tenant = log.c.tenant_id == bindparam("tenant")
    stored = _stored(projection).cte("stored")
    logged = _summed(projection, log, of_tenant & log.c.type.in_(types)).cte("logged")
    only_stored = select(stored).except_(select(logged)).subquery()
    only_logged = select(logged).except_(select(stored)).subquery()
    # Read by the same statement, because a drain of another release may make the rows incomplete at any moment.
    versions = projection_version.table
    line = select(versions.c.versions).where(versions.c.tenant_id == bindparam("tenant")).scalar_subquery()
    return select(line, literal("stored"), only_stored).union_all(select(line, literal("logged"), only_logged))


def _stored(projection: Projection) -> Select[Any]:
    """Return the statement for the keys and checksums of a tenant's rows; each row of a feed is one event."""
    table = projection.table
    of_tenant = next(iter(table.primary_key.columns)) == bindparam("tenant")
    if isinstance(projection, Feed):
        return _summed(projection, table, of_tenant)
    return select(*table.primary_key.columns, table.c.event_count, table.c.fingerprint).where(of_tenant)


def _summed(projection: Projection, events: Table, of_tenant: ColumnElement[bool]) -> Select[Any]:
    """Return the statement for the keys and checksums of events; for a feed, only of those that it keeps."""
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
    """Return the key of a rollup's row, or of a feed's group; the log has columns of the same names."""
    return projection.group if isinstance(projection, Feed) else list(projection.table.primary_key.columns)
