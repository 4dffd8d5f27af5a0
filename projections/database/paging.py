"""A tenant's rows of a table, in pages by primary key: no statement takes long, however many rows there are."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, CursorResult, Table, select, text, tuple_

from projections.database.columns import IN_BINARY, Row

ROWS_AT_ONCE = 2_000

# One look-up a tenant: PostgreSQL 16 cannot skip from one value of an index to the next by itself.
_TENANTS = """
    WITH RECURSIVE found (tenant_id) AS (
        SELECT min({key}) FROM {table} WHERE {key} > :after
        UNION ALL
        SELECT (SELECT min({key}) FROM {table} WHERE {key} > found.tenant_id)
        FROM found WHERE found.tenant_id IS NOT NULL
    )
    SELECT tenant_id FROM found WHERE tenant_id IS NOT NULL LIMIT :limit
"""
ALL = 2**62


def read_page(
    connection: Connection,
    table: Table,
    columns: Sequence[ColumnElement[object]],
    after: Row,
    limit: int,
    *conditions: ColumnElement[bool],
) -> CursorResult[Any]:
    """Return the next `limit` rows of a tenant, ascending by primary key, to be fetched.

    `after` is the tenant's id, followed by the rest of the last row's key if there was one.
    """
    tenant, *rest = table.primary_key.columns
    here = [tenant == after[0], *conditions]
    if len(after) > 1:
        here.append(tuple_(*rest) > tuple_(*after[1:]))
    statement = select(*columns).where(*here).order_by(*rest).limit(limit)
    return connection.execute(statement, execution_options=IN_BINARY)


def rows_of(connection: Connection, table: Table, tenant_id: str) -> Iterator[Row]:
    """Yield all rows of a tenant, ascending by primary key."""
    columns: Sequence[Column[object]] = list(table.columns)
    width = len(table.primary_key.columns)
    after: Row = (tenant_id,)
    while True:
        # As plain tuples, which are quicker to cut and to compare than SQLAlchemy's rows.
        page = [*map(tuple, read_page(connection, table, columns, after, ROWS_AT_ONCE).all())]
        yield from page
        if width == 1 or len(page) < ROWS_AT_ONCE:
            return
        after = page[-1][:width]


def tenants_of(connection: Connection, table: Table, after: str = "", limit: int = ALL) -> Sequence[str]:
    """Return the next `limit` tenants that have rows, ascending; the primary key begins with the tenant."""
    key = next(iter(table.primary_key.columns)).name
    statement = text(_TENANTS.format(key=key, table=table.name))
    return connection.scalars(statement, {"after": after, "limit": limit}).all()
