"""The table `dead_letter_count`: how many dead letters of each bucket and reason are open.

No query of a drain or of a status then depends on the number of dead letters. Why there are buckets and a limit:
docs/decisions/0052-bound-dead-letters-per-tenant-and-reason.md
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Column, Connection, Select, Table, delete, func, select

from event_stream.errors import Reason
from projections.database.bulk import dialect_insert
from projections.database.columns import KeyText, Row, metadata
from projections.database.key_queries import bind_keys, find_rows, key_rows
from projections.database.pipeline import Query
from projections.errors import ProjectionsError

NEVER_DROPPED = (Reason.UNKNOWN_TYPE, Reason.FOLD_FAILED)
"""Reasons of events that are most likely valid: a newer release applies them, so their bytes are never dropped."""

table = Table(
    "dead_letter_count",
    metadata,
    Column("bucket", KeyText, primary_key=True),
    Column("reason", KeyText, primary_key=True),
    Column("kept", BigInteger, nullable=False),
    Column("not_kept", BigInteger, nullable=False),
)


class Group(NamedTuple):
    """The dead letters of one bucket with one reason; the limit applies to each group."""

    bucket: str
    reason: str


class OpenCount(NamedTuple):
    """Open dead letters: those in the table `dead_letter`, and those that are only counted."""

    kept: int
    not_kept: int

    @property
    def total(self) -> int:
        """All open dead letters."""
        return self.kept + self.not_kept


class DeadLettersFullError(ProjectionsError):
    """A group is full whose dead letters are never dropped; the batch is not applied until there is room."""


def add(connection: Connection, kept: Mapping[Group, int], not_kept: Mapping[Group, int]) -> None:
    """Add to the counts. The caller adds once per transaction, after it has locked its dead letters."""
    rows = [
        {"bucket": group.bucket, "reason": group.reason, "kept": kept.get(group, 0), "not_kept": not_kept.get(group, 0)}
        for group in sorted({*kept, *not_kept})
        if kept.get(group) or not_kept.get(group)
    ]
    if not rows:
        return
    statement = dialect_insert(connection, table)
    added = {name: table.c[name] + statement.excluded[name] for name in ("kept", "not_kept")}
    connection.execute(statement.on_conflict_do_update(index_elements=["bucket", "reason"], set_=added), rows)


def read_kept(connection: Connection, groups: Sequence[Group]) -> dict[Group, int]:
    """Return how many dead letters of each group are in the table `dead_letter`; those without any are left out."""
    rows = find_rows(connection, table, [table.c.bucket, table.c.reason, table.c.kept], sorted(groups))
    return {Group(bucket, reason): kept for bucket, reason, kept in rows}


def buckets_with_open_query(connection: Connection, buckets: Sequence[str]) -> Query | None:
    """Return the query for those of these buckets that have open dead letters in the table `dead_letter`."""
    if not buckets:
        return None
    name = connection.dialect.name
    return Query(_buckets_statement(name), bind_keys(name, [(bucket,) for bucket in buckets]))


def count_open_by_reason(connection: Connection) -> dict[str, OpenCount]:
    """Return the number of open dead letters by reason, without the reasons that have none."""
    sums = select(table.c.reason, func.sum(table.c.kept), func.sum(table.c.not_kept)).group_by(table.c.reason)
    rows = sorted(map(tuple, connection.execute(sums)))
    counts = {reason: OpenCount(int(kept), int(not_kept)) for reason, kept, not_kept in rows}
    return {reason: count for reason, count in counts.items() if count.total}


def clear_not_kept(connection: Connection, tenant_id: str | None, reason: str | None) -> int:
    """Set the number of dead letters that are only counted to 0, and return how many there were."""
    chosen = [
        table.c.not_kept > 0,
        *([table.c.bucket == tenant_id] if tenant_id is not None else []),
        *([table.c.reason == reason] if reason is not None else []),
    ]
    ordered = select(table).where(*chosen).order_by(table.c.bucket, table.c.reason).with_for_update()
    cleared = {Group(row.bucket, row.reason): row.not_kept for row in connection.execute(ordered)}
    add(connection, {}, {group: -number for group, number in cleared.items()})
    return sum(cleared.values())


def delete_zeros(connection: Connection) -> None:
    """Delete the rows of groups without open dead letters."""
    connection.execute(delete(table).where(table.c.kept == 0, table.c.not_kept == 0))


@cache
def _buckets_statement(dialect_name: str) -> Select[Any]:
    keys = key_rows(dialect_name, [table.c.bucket])
    return select(table.c.bucket).select_from(keys).join(table, (table.c.bucket == keys.c[0]) & (table.c.kept > 0))


def buckets_in(rows: Sequence[Row]) -> frozenset[str]:
    """Return the buckets in the rows of `buckets_with_open_query`."""
    return frozenset(bucket for (bucket,) in rows)
