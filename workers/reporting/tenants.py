"""Who is behind the numbers: the tenants with the most traffic, and those with the most entries waiting.

For operators alone. The work is bounded, whatever the history and the backlog: of each partition the newest events of
the log and the first entries behind the checkpoint are looked at, so many and no more.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Annotated

from pydantic import BaseModel, Field
from sqlalchemy.exc import ProgrammingError

from event_stream.entries import Entry, Position
from event_stream.envelope import claimed_identity
from projections.transaction import event_log
from workers.reporting.status import PartitionStatus, Status
from workers.runtime import Runtime
from workers.telemetry.apply_rates import LATELY_S, Rate

SHOWN = 10
LOOKED_AT_MAX = 8_000  # events, or entries, of all partitions together
LOOKED_AT_MIN = 100  # of one
BYTES_MAX = 1_000_000  # of one; the page of entries that goes beyond is the last
PAGE = 100
_NOT_ALLOWED = "42501"  # the role that is enough for reads does not see the event log


class Traffic(BaseModel):
    """A tenant whose events were applied in the last ten minutes."""

    tenant_id: Annotated[str, Field(description="Tenant id.")]
    partition: Annotated[int, Field(description="Partition of the tenant.")]
    events_per_s: Annotated[float, Field(description="Events applied per second in the last ten minutes.")]


class Waiting(BaseModel):
    """A tenant whose entries are not yet projected."""

    tenant_id: Annotated[str | None, Field(description="Tenant id in the entries; null for entries without one.")]
    partition: Annotated[int, Field(description="Partition in which the entries wait.")]
    entries: Annotated[int, Field(description="Waiting entries, of those inspected.")]
    lag_s: Annotated[float, Field(description="Age in seconds of the oldest one.")]


class Tenants(BaseModel):
    """The tenants that matter most, at most SHOWN of each kind, the first first."""

    by_traffic: Annotated[
        list[Traffic] | None,
        Field(
            description="Ten tenants with the most events applied in the last ten minutes; null if the database "
            "role may not read the event log."
        ),
    ]
    by_lag: Annotated[list[Waiting], Field(description="Ten tenants with the most entries in flight.")]
    traffic_is_sample: Annotated[
        bool,
        Field(
            description="Whether some partition applied more events than were inspected; `events_per_s` is then "
            "an estimate from the newest."
        ),
    ]
    lag_is_sample: Annotated[
        bool,
        Field(description="Whether more entries are in flight than were inspected; the oldest of each partition were."),
    ]


def read_tenants(runtime: Runtime, status: Status, rates: Sequence[Rate], now_ms: int) -> Tenants:
    """Return the tenants that matter most; raises what Redis or the database raise."""
    limit = max(LOOKED_AT_MIN, LOOKED_AT_MAX // runtime.stream.partitions)
    behind = [each for each in status.partitions if each.in_flight]
    looked_at = {each.partition: _first_behind(runtime, each, limit) for each in behind}
    waiting = chain.from_iterable(_waiting(partition, found, now_ms) for partition, found in looked_at.items())
    return Tenants(
        by_traffic=_busiest_if_allowed(runtime, status, rates, limit),
        by_lag=sorted(waiting, key=lambda each: (-each.entries, -each.lag_s))[:SHOWN],
        traffic_is_sample=any(rate.events_last_10_min > limit for rate in rates),
        lag_is_sample=any(each.in_flight > len(looked_at[each.partition]) for each in behind),
    )


def _busiest_if_allowed(runtime: Runtime, status: Status, rates: Sequence[Rate], limit: int) -> list[Traffic] | None:
    try:
        return _busiest(runtime, status, rates, limit)
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != _NOT_ALLOWED:
            raise
        return None


def _busiest(runtime: Runtime, status: Status, rates: Sequence[Rate], limit: int) -> list[Traffic]:
    """Return the tenants of the newest events, as many as Redis says were applied lately, or `limit` in their place."""
    found: list[Traffic] = []
    with runtime.reader.connect() as connection:
        for at, rate in zip(status.partitions, rates, strict=True):
            newest = min(rate.events_last_10_min, at.applied, limit)
            counts = event_log.count_by_tenant(connection, at.partition, at.applied - newest, SHOWN) if newest else []
            found += [
                Traffic(
                    tenant_id=tenant_id,
                    partition=at.partition,
                    events_per_s=round(count / newest * rate.events_last_10_min / LATELY_S, 3),
                )
                for tenant_id, count in counts
            ]
    return sorted(found, key=lambda each: (-each.events_per_s, each.tenant_id))[:SHOWN]


def _first_behind(runtime: Runtime, at: PartitionStatus, limit: int) -> list[Entry]:
    """Return the first entries behind a checkpoint, up to `limit` and about BYTES_MAX."""
    found: list[Entry] = []
    position, size = Position.parse(at.position), 0
    while len(found) < limit and size < BYTES_MAX:
        page = runtime.stream.read_from(at.partition, position, PAGE + 1).after(position, PAGE)
        found += page.entries
        if len(page.entries) < PAGE:
            break
        position, size = page.entries[-1].position, size + page.size
    return found[:limit]


def _waiting(partition: int, entries: Sequence[Entry], now_ms: int) -> list[Waiting]:
    positions: dict[str | None, list[Position]] = {}
    for entry in entries:
        tenant_id, _ = claimed_identity(entry.body or b"")
        positions.setdefault(tenant_id, []).append(entry.position)
    return [
        Waiting(
            tenant_id=tenant_id,
            partition=partition,
            entries=len(found),
            lag_s=max(0.0, (now_ms - found[0].ms) / 1000),
        )
        for tenant_id, found in positions.items()
    ]
