"""Read a tenant's rows in pages by primary key, so that no statement takes long."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, CursorResult, Table, select, text, tuple_

from projections.database.columns import BINARY_RESULTS, Row
from projections.database.table_names import qualified

PAGE_ROWS = 2_000

# A loose index scan: the recursive query makes one lookup per tenant. PostgreSQL 16 has no such scan of its own.
_TENANTS = """
    WITH RECURSIVE found (tenant_id) AS (
        SELECT min({key}) FROM {table} WHERE {key} > :after
        UNION ALL
        SELECT (SELECT min({key}) FROM {table} WHERE {key} > found.tenant_id)
        FROM found WHERE found.tenant_id IS NOT NULL
    )
    SELECT tenant_id FROM found WHERE tenant_id IS NOT NULL LIMIT :limit
"""
NO_LIMIT = 2**62


def read_page(
    connection: Connection,
    table: Table,
    columns: Sequence[ColumnElement[object]],
    after: Row,
    limit: int,
    *conditions: ColumnElement[bool],
) -> CursorResult[Any]:
    """Return the next `limit` rows of a tenant, ascending by primary key.

    `after` is the tenant's id, followed for all pages but the first by the rest of the last row's primary key.
    """
    tenant, *rest = table.primary_key.columns
    selected = [tenant == after[0], *conditions]
    if len(after) > 1:
        selected.append(tuple_(*rest) > tuple_(*after[1:]))
    statement = select(*columns).where(*selected).order_by(*rest).limit(limit)
    return connection.execute(statement, execution_options=BINARY_RESULTS)


def iter_tenant_rows(connection: Connection, table: Table, tenant_id: str) -> Iterator[Row]:
    """Yield all rows of a tenant, ascending by primary key."""
    columns: Sequence[Column[object]] = list(table.columns)
    width = len(table.primary_key.columns)
    after: Row = (tenant_id,)
    while True:
        # Plain tuples are faster to slice and compare than SQLAlchemy's rows.
        page = [*map(tuple, read_page(connection, table, columns, after, PAGE_ROWS).all())]
        yield from page
        if width == 1 or len(page) < PAGE_ROWS:
            return
        after = page[-1][:width]


def list_tenants(connection: Connection, table: Table, after: str = "", limit: int = NO_LIMIT) -> Sequence[str]:
    """Return the next `limit` tenants that have rows, ascending. The primary key must begin with the tenant."""
    key = next(iter(table.primary_key.columns)).name
    statement = text(_TENANTS.format(key=key, table=qualified(connection.dialect, table)))
    return connection.scalars(statement, {"after": after, "limit": limit}).all()
