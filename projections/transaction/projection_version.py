"""Versions: of which release's making a tenant's rows are, read model by read model; read and set under the claim.

Each tenant has a line such as `activity 1, analysis_trend 1 incomplete, project 1`. A projection that is not named has
no rows yet. One that is `incomplete` was skipped by a drain of another release: its rows have that version and lack the
events since then.

Events are folded only into rows of this release's version that lack nothing. All others are left to a rebuild, which
finds them in the log, and sets the version in the transaction that fills the rows.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from sqlalchemy import Column, Connection, Engine, Index, Select, Table, func, select, union_all

from event_stream.event_types import Event, partition_of
from projections.database.bulk import find_query, upsert_rows
from projections.database.columns import KeyText, Row, metadata
from projections.database.paging import ROWS_AT_ONCE, tenants_of
from projections.database.pipeline import Query, fetch
from projections.errors import ProjectionsError
from projections.folding.projection import Projection, route_events
from projections.transaction import checkpoint

table = Table(
    "projection_version",
    metadata,
    Column("tenant_id", KeyText, primary_key=True),
    Column("versions", KeyText, nullable=False),
)
Index("projection_version_by_versions", table.c.versions)

_INCOMPLETE = " incomplete"
_STANDING = re.compile(rf"(\S+) ([1-9][0-9]{{0,8}})({_INCOMPLETE})?")


class ProjectionState(NamedTuple):
    """The version of a tenant's rows in one read model, and whether they lack events."""

    version: int
    is_incomplete: bool = False


ProjectionStates: TypeAlias = dict[str, ProjectionState]
"""By the projections' names; one that is not there has no rows yet."""


class OutdatedReleaseError(ProjectionsError):
    """Rows are of a version that this release does not know, so it must not touch them."""

    def __init__(self, name: str, version: int, known: int | None) -> None:
        own = "does not have it" if known is None else f"has version {known}"
        super().__init__(
            f"read model {name} is at version {version}, and this release {own}: run the newer release, or go back to"
            " this one by `projector rebuild --downgrade`"
        )


class Count(NamedTuple):
    """Of how many tenants the rows of a projection are to be rebuilt, and of how many they are too new for us."""

    due: int = 0
    newer: int = 0


def versions_query(connection: Connection, tenants: Iterable[str]) -> Query | None:
    """Return the question for the lines of tenants: tenant and line."""
    return find_query(connection, table, list(table.columns), [(tenant_id,) for tenant_id in tenants])


def route_by_version(
    connection: Connection,
    projections: Sequence[Projection],
    events: Sequence[Event],
    found: Sequence[Row],
) -> list[tuple[Projection, Sequence[Event]]]:
    """Return which of a partition's new events each projection is to fold, and note whose rows lack some from now on.

    The caller holds the claim, and `found` is the answer to `lines_of` for their tenants; a tenant without a line is
    new. Raises OutdatedReleaseError; nothing must be committed then.
    """
    tenants = sorted({event.tenant_id for event in events})
    shares: list[tuple[Projection, Sequence[Event]]]
    shares = list(zip(projections, route_events(projections, events), strict=True))
    stored = _by_tenant(found)
    line = dump(current(projections))
    if all(stored.get(tenant_id) == line for tenant_id in tenants):
        return shares
    standings = {tenant_id: parse(stored.get(tenant_id, line)) for tenant_id in tenants}
    for each in standings.values():
        refuse_newer(each, projections)
    live = {tenant_id: live_in(each, projections) for tenant_id, each in standings.items()}
    after = {tenant_id: dump(_left_out(each, live[tenant_id])) for tenant_id, each in standings.items()}
    upsert_rows(connection, table, [each for each in after.items() if stored.get(each[0]) != each[1]])
    return [
        (projection, [event for event in share if projection.name in live[event.tenant_id]])
        for projection, share in shares
    ]


def current(projections: Iterable[Projection]) -> ProjectionStates:
    """Return where a tenant stands whose rows are all of this release's making, and lack nothing."""
    return {projection.name: ProjectionState(projection.version) for projection in projections}


def live_in(standings: ProjectionStates, projections: Iterable[Projection]) -> frozenset[str]:
    """Return the names of the projections whose rows are of this release's version and lack nothing."""
    return frozenset(each.name for each in projections if standings.get(each.name) == ProjectionState(each.version))


def refuse_newer(standings: ProjectionStates, projections: Sequence[Projection]) -> None:
    """Raise OutdatedReleaseError if any rows are of a version that these projections do not know."""
    known = {projection.name: projection.version for projection in projections}
    for name, at in standings.items():
        if at.version > known.get(name, 0):
            raise OutdatedReleaseError(name, at.version, known.get(name))


def check(connection: Connection, projections: Sequence[Projection]) -> None:
    """Raise OutdatedReleaseError if any tenant's rows are too new for this release; cheap, however many there are."""
    for versions, _ in connection.execute(_others(projections)):
        refuse_newer(parse(versions), projections)


def count(connection: Connection, projections: Sequence[Projection]) -> Mapping[str, Count]:
    """Return by projection of how many tenants the rows are not this release's; O(such tenants).

    Those that only a newer release has are named too.
    """
    found = {projection.name: Count() for projection in projections}
    known = {projection.name: projection.version for projection in projections}
    for versions, tenants in connection.execute(_others(projections)):
        standings = parse(versions)
        for name in known.keys() | standings.keys():
            before, at = found.get(name, Count()), standings.get(name)
            if at is not None and at.version > known.get(name, 0):
                found[name] = before._replace(newer=before.newer + tenants)
            elif at != ProjectionState(known[name]):
                found[name] = before._replace(due=before.due + tenants)
    return found


def of_tenant(connection: Connection, tenant_id: str, projections: Iterable[Projection]) -> ProjectionStates:
    """Return where one tenant's read models stand; a tenant without a line has no events, so nothing is missing."""
    line = _read(connection, [tenant_id]).get(tenant_id)
    return current(projections) if line is None else parse(line)


def due_of(connection: Connection, tenant_id: str, projections: Sequence[Projection]) -> frozenset[str]:
    """Return the names of the projections whose rows of a tenant are another release's, or lack events."""
    standings = of_tenant(connection, tenant_id, projections)
    return frozenset(current(projections)) - live_in(standings, projections)


def outdated_tenants(connection: Connection, projections: Sequence[Projection]) -> list[str]:
    """Return the tenants of which rows in these read models are not this release's or lack events, ascending."""
    names = current(projections).keys()
    stored = connection.execute(select(table).order_by(table.c.tenant_id))
    return [row.tenant_id for row in stored if live_in(parse(row.versions), projections) != names]


def mark_current(connection: Connection, tenant_id: str, projections: Sequence[Projection]) -> None:
    """Note that a tenant's rows in these read models are of this release's version and lack nothing: under the claim.

    Raises OutdatedReleaseError if some of them were of a newer one.
    """
    standings, filled = of_tenant(connection, tenant_id, projections), current(projections)
    for name, at in filled.items():
        if name in standings and standings[name].version > at.version:
            raise OutdatedReleaseError(name, standings[name].version, at.version)
    upsert_rows(connection, table, [(tenant_id, dump(standings | filled))])


def mark_newer_pending(engine: Engine, projections: Sequence[Projection], partitions: int) -> None:
    """Note of all rows that are too new for this release that they are due to be rebuilt by it, and of which version.

    Until then they stand as they are; what only the newer release has is taken as not there. It goes in steps, none of
    which claims a partition for long.
    """
    after = ""
    while True:
        with engine.connect() as connection:
            tenants = tenants_of(connection, table, after, ROWS_AT_ONCE)
        if not tenants:
            return
        for partition in range(partitions):
            mine = [tenant_id for tenant_id in tenants if partition_of(tenant_id, partitions) == partition]
            with engine.begin() as connection:
                checkpoint.claim_as_it_is(connection, partition)
                stored = _read(connection, mine)
                after_it = {each: dump(_stepped_back(parse(line), projections)) for each, line in stored.items()}
                upsert_rows(connection, table, [each for each in after_it.items() if stored[each[0]] != each[1]])
        after = tenants[-1]


def dump(standings: ProjectionStates) -> str:
    """Return the line that says where read models stand, by name."""
    lines = [f"{name} {at.version}{_INCOMPLETE * at.is_incomplete}" for name, at in sorted(standings.items())]
    return ", ".join(lines)


def parse(line: str) -> ProjectionStates:
    """Return what a line says; what cannot be read, as after damage, is not there, and so is due to be rebuilt."""
    found = [_STANDING.fullmatch(each) for each in line.split(", ")]
    return {match[1]: ProjectionState(int(match[2]), match[3] is not None) for match in found if match}


@lru_cache(maxsize=256)
def have_rows(line: str, names: tuple[str, ...]) -> bool:
    """Return whether a line says that these read models all have rows, of whatever version."""
    return parse(line).keys() >= set(names)


def _stepped_back(standings: ProjectionStates, projections: Iterable[Projection]) -> ProjectionStates:
    known = current(projections)
    return {
        name: known[name]._replace(is_incomplete=True) if at.version > known[name].version else at
        for name, at in standings.items()
        if name in known
    }


def _left_out(standings: ProjectionStates, live: Collection[str]) -> ProjectionStates:
    return {name: at if name in live else at._replace(is_incomplete=True) for name, at in standings.items()}


def _read(connection: Connection, tenants: Iterable[str]) -> dict[str, str]:
    (found,) = fetch(connection, versions_query(connection, tenants))
    return _by_tenant(found)


def _by_tenant(found: Sequence[Row]) -> dict[str, str]:
    return {row[0]: row[1] for row in found}


def _others(projections: Sequence[Projection]) -> Select[str, int]:
    """Return the lines that are not this release's, with the number of tenants: two ranges of an index."""
    line = dump(current(projections))
    ranges = union_all(
        *(select(table.c.versions).where(condition) for condition in (table.c.versions < line, table.c.versions > line))
    ).subquery()
    return select(ranges.c.versions, func.count()).group_by(ranges.c.versions)
