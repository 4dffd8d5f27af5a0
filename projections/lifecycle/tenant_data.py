"""Queries for tenants: which ones have events or rows, and how many events."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, func, select

from projections.database.paging import NO_LIMIT, list_tenants
from projections.folding.projection import Projection
from projections.transaction.event_log import table

COUNT_PAGE = 100_000


def tenants_with_data(
    connection: Connection, projections: Iterable[Projection], after: str = "", limit: int = NO_LIMIT
) -> list[str]:
    """Return the next tenants that have events in the log or rows in the read models, ascending."""
    tables = [table, *(projection.table for projection in projections)]
    return sorted({tenant_id for each in tables for tenant_id in list_tenants(connection, each, after, limit)})[:limit]


def tenants_between(connection: Connection, partition: int, after: int, up_to: int) -> Sequence[str]:
    """Return the tenants of a partition's events numbered after `after`, up to `up_to`, in no order."""
    numbered = (table.c.partition == partition, table.c.number > after, table.c.number <= up_to)
    return connection.scalars(select(table.c.tenant_id).where(*numbered).distinct()).all()


def count_events_by_tenant(connection: Connection, partition: int, after: int, limit: int) -> Sequence[tuple[str, int]]:
    """Return the `limit` tenants with the most events numbered after `after`, each with its number of those events."""
    numbered = (table.c.partition == partition, table.c.number > after)
    events = func.count().label("events")
    statement = select(table.c.tenant_id, events).where(*numbered).group_by(table.c.tenant_id)
    rows = connection.execute(statement.order_by(events.desc(), table.c.tenant_id).limit(limit))
    return [(tenant_id, count) for tenant_id, count in rows]


def count_events(connection: Connection, tenant_id: str) -> int:
    """Return how many events a tenant has. It counts in steps, so that no statement takes long."""
    counted, after_id = 0, ""
    while True:
        rest = select(table.c.event_id).where(table.c.tenant_id == tenant_id, table.c.event_id > after_id)
        page = rest.order_by(table.c.event_id).limit(COUNT_PAGE).subquery()
        found: int
        found, last = connection.execute(select(func.count(), func.max(page.c.event_id))).one()
        counted += found
        if found < COUNT_PAGE:
            return counted
        after_id = last
