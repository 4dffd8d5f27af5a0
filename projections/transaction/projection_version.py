"""The table `projection_version`: the projection states of every tenant, read and written under the claim.

Events are folded only into complete rows of this release's version. Other events go to the log alone, and the rows are
marked `incomplete`; a rebuild folds the events from the log later, and stores the version together with the rows.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Column, Connection, Engine, Index, Select, Table, func, select, union_all

from event_stream.events.event import Event, partition_of
from projections.database.bulk import upsert_rows
from projections.database.columns import KeyText, Row, metadata
from projections.database.key_queries import find_rows_query
from projections.database.paging import PAGE_ROWS, list_tenants
from projections.database.pipeline import Query, fetch
from projections.folding.projection import Projection, route_events
from projections.transaction import checkpoint_table
from projections.transaction.projection_state import (
    OutdatedReleaseError,
    ProjectionState,
    ProjectionStates,
    dump,
    expected_states,
    parse,
    refuse_newer,
    up_to_date,
)

table = Table(
    "projection_version",
    metadata,
    Column("tenant_id", KeyText, primary_key=True),
    Column("versions", KeyText, nullable=False),
)
Index("projection_version_by_versions", table.c.versions)


class TenantCounts(NamedTuple):
    """The number of tenants whose rows of a projection are pending a rebuild, and of those with a newer version."""

    pending: int = 0
    newer: int = 0


def versions_query(connection: Connection, tenants: Iterable[str]) -> Query | None:
    """Return the query for the lines of tenants; its rows are (tenant, line)."""
    return find_rows_query(connection, table, list(table.columns), [(tenant_id,) for tenant_id in tenants])


def route_by_version(
    connection: Connection,
    projections: Sequence[Projection],
    events: Sequence[Event],
    found: Sequence[Row],
) -> list[tuple[Projection, Sequence[Event]]]:
    """Return the new events that each projection must fold. Marks the rows that will lack some of them as incomplete.

    The caller holds the claim. `found` are the rows of `versions_query` for the events' tenants; a tenant without a
    line is new. If it raises OutdatedReleaseError, the caller must roll back.
    """
    tenants = sorted({event.tenant_id for event in events})
    routed: list[tuple[Projection, Sequence[Event]]]
    routed = list(zip(projections, route_events(projections, events), strict=True))
    stored = _by_tenant(found)
    expected = dump(expected_states(projections))
    if all(stored.get(tenant_id) == expected for tenant_id in tenants):
        return routed
    states = {tenant_id: parse(stored.get(tenant_id, expected)) for tenant_id in tenants}
    for each in states.values():
        refuse_newer(each, projections)
    foldable = {tenant_id: up_to_date(each, projections) for tenant_id, each in states.items()}
    after = {tenant_id: dump(_marked_incomplete(each, foldable[tenant_id])) for tenant_id, each in states.items()}
    upsert_rows(connection, table, [row for row in after.items() if stored.get(row[0]) != row[1]])
    return [
        (projection, [event for event in routed_events if projection.name in foldable[event.tenant_id]])
        for projection, routed_events in routed
    ]


def check(connection: Connection, projections: Sequence[Projection]) -> None:
    """Raise OutdatedReleaseError if a newer release made any tenant's rows; O(outdated tenants)."""
    for line, _ in connection.execute(_unexpected_lines(projections)):
        refuse_newer(parse(line), projections)


def count_tenants(connection: Connection, projections: Sequence[Projection]) -> Mapping[str, TenantCounts]:
    """Count, for each projection, the tenants with rows of another version or incomplete rows; O(outdated tenants).

    Projections that only a newer release has are included.
    """
    counts = {projection.name: TenantCounts() for projection in projections}
    own_versions = {projection.name: projection.version for projection in projections}
    for line, tenants in connection.execute(_unexpected_lines(projections)):
        states = parse(line)
        for name in own_versions.keys() | states.keys():
            before, state = counts.get(name, TenantCounts()), states.get(name)
            if state is not None and state.version > own_versions.get(name, 0):
                counts[name] = before._replace(newer=before.newer + tenants)
            elif state != ProjectionState(own_versions[name]):
                counts[name] = before._replace(pending=before.pending + tenants)
    return counts


def read_states(connection: Connection, tenant_id: str, projections: Iterable[Projection]) -> ProjectionStates:
    """Return the projection states of one tenant. A tenant without a line has no events, so its rows are up to date."""
    line = _read(connection, [tenant_id]).get(tenant_id)
    return expected_states(projections) if line is None else parse(line)


def outdated_projections(connection: Connection, tenant_id: str, projections: Sequence[Projection]) -> frozenset[str]:
    """Return the names of the projections whose rows of a tenant are of another version, or lack events."""
    states = read_states(connection, tenant_id, projections)
    return frozenset(expected_states(projections)) - up_to_date(states, projections)


def outdated_tenants(connection: Connection, projections: Sequence[Projection]) -> list[str]:
    """Return the tenants that have an outdated projection, ascending."""
    names = expected_states(projections).keys()
    stored = connection.execute(select(table).order_by(table.c.tenant_id))
    return [row.tenant_id for row in stored if up_to_date(parse(row.versions), projections) != names]


def mark_current(connection: Connection, tenant_id: str, projections: Sequence[Projection]) -> None:
    """Store that a tenant's rows have this release's version and are complete; the caller holds the claim.

    Raises OutdatedReleaseError if a newer release made some of them.
    """
    states, rebuilt = read_states(connection, tenant_id, projections), expected_states(projections)
    for name, state in rebuilt.items():
        if name in states and states[name].version > state.version:
            raise OutdatedReleaseError(name, states[name].version, state.version)
    upsert_rows(connection, table, [(tenant_id, dump(states | rebuilt))])


def mark_newer_pending(engine: Engine, projections: Sequence[Projection], partitions: int) -> None:
    """Mark all rows that a newer release made as pending a rebuild by this one: the step of `rebuild --downgrade`.

    The rows stay as they are until then. Entries for projections that this release does not have are removed.
    It works in steps, so that no partition is claimed for long.
    """
    after = ""
    while True:
        with engine.connect() as connection:
            tenants = list_tenants(connection, table, after, PAGE_ROWS)
        if not tenants:
            return
        for partition in range(partitions):
            of_partition = [tenant_id for tenant_id in tenants if partition_of(tenant_id, partitions) == partition]
            with engine.begin() as connection:
                checkpoint_table.claim_current(connection, partition)
                stored = _read(connection, of_partition)
                marked = {each: dump(_marked_pending(parse(line), projections)) for each, line in stored.items()}
                upsert_rows(connection, table, [row for row in marked.items() if stored[row[0]] != row[1]])
        after = tenants[-1]


def _marked_pending(states: ProjectionStates, projections: Iterable[Projection]) -> ProjectionStates:
    expected = expected_states(projections)
    return {
        name: expected[name]._replace(is_incomplete=True) if state.version > expected[name].version else state
        for name, state in states.items()
        if name in expected
    }


def _marked_incomplete(states: ProjectionStates, foldable: Collection[str]) -> ProjectionStates:
    return {name: state if name in foldable else state._replace(is_incomplete=True) for name, state in states.items()}


def _read(connection: Connection, tenants: Iterable[str]) -> dict[str, str]:
    (found,) = fetch(connection, versions_query(connection, tenants))
    return _by_tenant(found)


def _by_tenant(found: Sequence[Row]) -> dict[str, str]:
    return {row[0]: row[1] for row in found}


def _unexpected_lines(projections: Sequence[Projection]) -> Select[str, int]:
    """Return the lines that differ from this release's, each with its number of tenants: two ranges of an index."""
    line = dump(expected_states(projections))
    ranges = union_all(
        *(select(table.c.versions).where(condition) for condition in (table.c.versions < line, table.c.versions > line))
    ).subquery()
    return select(ranges.c.versions, func.count()).group_by(ranges.c.versions)
