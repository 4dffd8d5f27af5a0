"""What is still due to be rebuilt: written before the work, gone in the very transaction that has done it.

So whoever asks for the same rebuild again after a crash goes on where it stopped.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, Table, delete, func, select

from projections.database.bulk import upsert_rows
from projections.database.columns import KeyText, metadata
from projections.database.paging import ALL, tenants_of
from projections.folding.projection import Projection
from projections.transaction import event_log

table = Table(
    "pending_rebuild",
    metadata,
    Column("tenant_id", KeyText, primary_key=True),
    Column("projection", KeyText, primary_key=True),
    Column("request", KeyText, primary_key=True),
    Column("requested_us", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class RebuildRequest:
    """Which rebuild somebody asked for: of one projection or all, of one tenant or all."""

    projection: str | None = None
    tenant_id: str | None = None

    @property
    def name(self) -> str:
        """Its name in the database; what it says, no projection or tenant can be called."""
        return f"{self.projection or '*'} of {self.tenant_id or '*'}"


def tenants_in(
    connection: Connection, projections: Iterable[Projection], after: str = "", limit: int = ALL
) -> list[str]:
    """Return the next tenants that have events in the log or rows in the projections' read models, ascending."""
    tables = [event_log.table, *(projection.table for projection in projections)]
    return sorted({tenant_id for each in tables for tenant_id in tenants_of(connection, each, after, limit)})[:limit]


def plan(
    connection: Connection,
    asked: RebuildRequest,
    projections: Sequence[Projection],
    tenants: Iterable[str],
    now_us: int,
) -> None:
    """Note that these projections are due for these tenants; what has been due under this name is forgotten."""
    connection.execute(delete(table).where(table.c.request == asked.name))
    names = [projection.name for projection in projections]
    rows = [(tenant_id, name, asked.name, now_us) for tenant_id in tenants for name in names]
    upsert_rows(connection, table, rows)


def read(connection: Connection, asked: RebuildRequest) -> dict[str, frozenset[str]]:
    """Return the tenants for which something is due, ascending, each with the names of the projections."""
    mine = select(table.c.tenant_id, table.c.projection).where(table.c.request == asked.name)
    found: defaultdict[str, set[str]] = defaultdict(set)
    for tenant_id, projection in connection.execute(mine.order_by(table.c.tenant_id)):
        found[tenant_id].add(projection)
    return {tenant_id: frozenset(names) for tenant_id, names in found.items()}


def requested_us(connection: Connection, asked: RebuildRequest) -> int | None:
    """Return since when the oldest of what is due under this name has been so; None if nothing is."""
    oldest: int | None = connection.scalar(select(func.min(table.c.requested_us)).where(table.c.request == asked.name))
    return oldest


def of_tenant(connection: Connection, tenant_id: str, asked: RebuildRequest) -> frozenset[str]:
    """Return the names of the projections that are due for one tenant."""
    mine = select(table.c.projection).where(table.c.tenant_id == tenant_id, table.c.request == asked.name)
    return frozenset(connection.scalars(mine))


def complete(connection: Connection, tenant_id: str, names: Collection[str]) -> None:
    """Remove what is due for a tenant, whoever asked for it: in the transaction that does it."""
    connection.execute(delete(table).where(table.c.tenant_id == tenant_id, table.c.projection.in_(names)))
