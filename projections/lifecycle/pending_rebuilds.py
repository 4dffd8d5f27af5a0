"""The table `pending_rebuild`: written before a rebuild begins, deleted by the transaction that rebuilds a tenant.

A rebuild that is requested again after a crash continues with the tenants that are left.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, Table, delete, func, select

from projections.database.bulk import upsert_rows
from projections.database.columns import KeyText, metadata
from projections.folding.projection import Projection

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
    """A requested rebuild: of one projection or all, of one tenant or all."""

    projection: str | None = None
    tenant_id: str | None = None

    @property
    def name(self) -> str:
        """Its name in the database; no projection and no tenant can have the name `*`."""
        return f"{self.projection or '*'} of {self.tenant_id or '*'}"


def plan(
    connection: Connection,
    request: RebuildRequest,
    projections: Sequence[Projection],
    tenants: Iterable[str],
    now_us: int,
) -> None:
    """Store that these projections are pending for these tenants. Replaces an unfinished run of the same request."""
    connection.execute(delete(table).where(table.c.request == request.name))
    names = [projection.name for projection in projections]
    rows = [(tenant_id, name, request.name, now_us) for tenant_id in tenants for name in names]
    upsert_rows(connection, table, rows)


def read(connection: Connection, request: RebuildRequest) -> dict[str, frozenset[str]]:
    """Return the tenants that a request has not rebuilt yet, ascending, each with the names of the projections."""
    pending = select(table.c.tenant_id, table.c.projection).where(table.c.request == request.name)
    found: defaultdict[str, set[str]] = defaultdict(set)
    for tenant_id, projection in connection.execute(pending.order_by(table.c.tenant_id)):
        found[tenant_id].add(projection)
    return {tenant_id: frozenset(names) for tenant_id, names in found.items()}


def requested_us(connection: Connection, request: RebuildRequest) -> int | None:
    """Return when the oldest pending rebuild of a request was stored; None if there is none."""
    of_request = table.c.request == request.name
    oldest: int | None = connection.scalar(select(func.min(table.c.requested_us)).where(of_request))
    return oldest


def read_for_tenant(connection: Connection, tenant_id: str, request: RebuildRequest) -> frozenset[str]:
    """Return the names of the projections that a request has not rebuilt yet for one tenant."""
    pending = select(table.c.projection).where(table.c.tenant_id == tenant_id, table.c.request == request.name)
    return frozenset(connection.scalars(pending))


def complete(connection: Connection, tenant_id: str, names: Collection[str]) -> None:
    """Delete the pending rebuilds of a tenant, of all requests, in the transaction that replaces the rows."""
    connection.execute(delete(table).where(table.c.tenant_id == tenant_id, table.c.projection.in_(names)))
