"""The busiest tenants: those with the most traffic, and those with the most entries in flight.

The cost does not depend on the history or the backlog: of each partition, only a limited number of the newest events in
the log and of the oldest entries after the checkpoint are inspected. The result is for operators only.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

from pydantic import BaseModel, Field
from sqlalchemy import Connection
from sqlalchemy.exc import ProgrammingError

from event_stream.events.envelope import claimed_identity
from event_stream.streams.entries import BODY_BYTES_KEPT, Entry, Position
from projections.lifecycle import tenant_data
from workers.reporting.status import PartitionStatus, Status
from workers.runtime import Runtime
from workers.telemetry.apply_rates import HISTORY_S, Rate

TENANTS_SHOWN = 10
INSPECTED_MAX = 8_000  # events, and as many entries, of all partitions together
INSPECTED_PER_PARTITION_MIN = 100
INSPECTED_BYTES_MAX = 1_000_000  # of one partition's entries
_INSUFFICIENT_PRIVILEGE = "42501"  # SQLSTATE; the API's role, for example, may lack the right to read the event log


class TenantTraffic(BaseModel):
    """A tenant with events that were applied in the last ten minutes."""

    tenant_id: str = Field(description="Tenant id.")
    partition: int = Field(description="Partition of the tenant.")
    events_per_s: float = Field(description="Events applied per second in the last ten minutes.")


class TenantLag(BaseModel):
    """A tenant with entries that are not projected yet."""

    tenant_id: str | None = Field(description="Tenant id in the entries; null for entries without one.")
    partition: int = Field(description="Partition in which the entries wait.")
    entries: int = Field(description="Waiting entries, of those inspected.")
    lag_s: float = Field(description="Age in seconds of the oldest one.")


class BusiestTenants(BaseModel):
    """The busiest tenants, at most TENANTS_SHOWN in each list, the busiest first."""

    by_traffic: list[TenantTraffic] | None = Field(
        description="Ten tenants with the most events applied in the last ten minutes; null if the database role may"
        " not read the event log."
    )
    by_lag: list[TenantLag] = Field(description="Ten tenants with the most entries in flight.")
    traffic_is_sample: bool = Field(
        description="Whether some partition applied more events than were inspected; `events_per_s` is then an"
        " estimate from the newest."
    )
    lag_is_sample: bool = Field(
        description="Whether more entries are in flight than were inspected; the oldest of each partition were."
    )


def read_tenants(runtime: Runtime, status: Status, rates: Sequence[Rate], now_ms: int) -> BusiestTenants:
    """Return the busiest tenants; raises errors of Redis and of the database."""
    limit = max(INSPECTED_PER_PARTITION_MIN, INSPECTED_MAX // runtime.stream.partitions)
    lagging = [each for each in status.partitions if each.in_flight]
    inspected = {each.partition: _oldest_in_flight(runtime, each, limit) for each in lagging}
    lags = chain.from_iterable(_tenant_lags(each, inspected[each.partition], now_ms) for each in lagging)
    return BusiestTenants(
        by_traffic=_tenants_by_traffic(runtime, status, rates, limit),
        by_lag=sorted(lags, key=lambda each: (-each.entries, -each.lag_s))[:TENANTS_SHOWN],
        traffic_is_sample=any(rate.events_last_10_min > limit for rate in rates),
        lag_is_sample=any(each.in_flight > len(inspected[each.partition]) for each in lagging),
    )


def _tenants_by_traffic(
    runtime: Runtime, status: Status, rates: Sequence[Rate], limit: int
) -> list[TenantTraffic] | None:
    """Return the tenants with the most events applied lately, or None if the role may not read the event log."""
    traffic: list[TenantTraffic] = []
    try:
        with runtime.reader.connect() as connection:
            for partition, rate in zip(status.partitions, rates, strict=True):
                traffic += _traffic_of_partition(connection, partition, rate, limit)
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        return None
    return sorted(traffic, key=lambda each: (-each.events_per_s, each.tenant_id))[:TENANTS_SHOWN]


def _traffic_of_partition(
    connection: Connection, partition: PartitionStatus, rate: Rate, limit: int
) -> Iterator[TenantTraffic]:
    """Yield the tenants of the newest events, scaled up to all events that were applied lately."""
    newest = min(rate.events_last_10_min, partition.applied, limit)
    if not newest:
        return
    after = partition.applied - newest
    for tenant_id, count in tenant_data.count_events_by_tenant(connection, partition.partition, after, TENANTS_SHOWN):
        events_per_s = round(count / newest * rate.events_last_10_min / HISTORY_S, 3)
        yield TenantTraffic(tenant_id=tenant_id, partition=partition.partition, events_per_s=events_per_s)


def _oldest_in_flight(runtime: Runtime, partition: PartitionStatus, limit: int) -> list[Entry]:
    """Return the first entries after the checkpoint, up to `limit` and INSPECTED_BYTES_MAX."""
    entries: list[Entry] = []
    position, bytes_left = Position.parse(partition.position), INSPECTED_BYTES_MAX
    while len(entries) < limit and bytes_left > 0:
        found = runtime.stream.read_after(partition.partition, position, limit - len(entries), bytes_max=bytes_left)
        entries += found.entries
        if found.reaches_end or not found.entries:
            break
        # A large entry ends a slice. Each slice counts as much as the server may send of it.
        position, bytes_left = found.entries[-1].position, bytes_left - found.size - BODY_BYTES_KEPT
    return entries


def _tenant_lags(partition: PartitionStatus, entries: Sequence[Entry], now_ms: int) -> list[TenantLag]:
    positions: dict[str | None, list[Position]] = {}
    for entry in entries:
        tenant_id, _ = claimed_identity(entry.body or b"")
        positions.setdefault(tenant_id, []).append(entry.position)
    return [
        TenantLag(
            tenant_id=tenant_id,
            partition=partition.partition,
            entries=len(found),
            # An id that is ahead of the clock shows no age, but the partition's lag is known.
            lag_s=(now_ms - found[0].ms) / 1000 if found[0].ms < now_ms else partition.lag_s,
        )
        for tenant_id, found in positions.items()
    ]
