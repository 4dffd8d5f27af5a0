"""Reads the status of the deployment from the database and from Redis.

The two halves can be read separately, because `GET /metrics` must report one half if the other cannot be read
(docs/decisions/0041-one-reading-for-status-health-and-metrics.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from event_stream.streams.entries import StreamEnd
from projections.transaction import checkpoint_table, dead_letters, projection_version
from projections.transaction.checkpoint import Checkpoint
from projections.transaction.projection_version import TenantCounts
from workers.drain import circuit_breaker
from workers.maintenance import verify_results
from workers.maintenance.verify_results import VerificationSummary
from workers.reporting.heartbeats import read_dispatchers, read_workers
from workers.reporting.status import PartitionStatus, ProcessStatus, ProjectionStatus, Status
from workers.runtime import Runtime
from workers.telemetry.progress import STALLED_AFTER_S, PartitionProgress, read_progress


@dataclass(frozen=True, slots=True, eq=False)
class DatabaseState:
    """The half of the status that the database knows. `outdated` counts tenants for each projection."""

    checkpoints: Sequence[Checkpoint]
    open_dead_letters: dict[str, int]
    outdated: Mapping[str, TenantCounts]


@dataclass(frozen=True, slots=True)
class RedisState:
    """The half of the status that Redis knows, without the streams."""

    queue_length: int
    workers: list[ProcessStatus]
    dispatchers: list[ProcessStatus]
    breaker_open_reason: str | None
    verification: VerificationSummary


def read_status(runtime: Runtime) -> Status:
    """Return the status of the deployment; raises errors of Redis and of the database."""
    return combine(runtime, read_database_state(runtime), read_redis_state(runtime))


def read_database_state(runtime: Runtime) -> DatabaseState:
    """Return the database's half; raises database errors."""
    with runtime.reader.connect() as connection:
        checkpoints = checkpoint_table.read_all(connection, runtime.stream.partitions)
        outdated = projection_version.count_tenants(connection, runtime.projections)
        return DatabaseState(checkpoints, dead_letters.count_open_by_reason(connection), outdated)


def read_redis_state(runtime: Runtime) -> RedisState:
    """Return the half of Redis; raises RedisError."""
    return RedisState(
        queue_length=runtime.queue.count,
        workers=read_workers(runtime),
        dispatchers=read_dispatchers(runtime),
        breaker_open_reason=circuit_breaker.read(runtime.queue.connection),
        verification=verify_results.read(runtime.queue.connection),
    )


def combine(runtime: Runtime, database: DatabaseState, redis: RedisState) -> Status:
    """Read the ends of the streams, and return the status with both halves; raises RedisError.

    The ends are read after the checkpoints. Checkpoints only move forward, so a lag may be slightly too large, but
    never too small.
    """
    ends = runtime.stream.ends()
    now_ms = runtime.stream.now_ms()
    progress = read_progress(runtime.queue.connection, runtime.stream.partitions)
    partitions = zip(database.checkpoints, ends, progress, strict=True)
    return Status(
        partitions=[
            _partition_status(runtime, checkpoint, end, partition_progress, now_ms)
            for checkpoint, end, partition_progress in partitions
        ],
        open_dead_letters=database.open_dead_letters,
        queue_length=redis.queue_length,
        workers=redis.workers,
        dispatchers=redis.dispatchers,
        breaker_open_reason=redis.breaker_open_reason,
        projections=_projection_statuses(runtime, database.outdated),
        verification=redis.verification,
    )


def _projection_statuses(runtime: Runtime, outdated: Mapping[str, TenantCounts]) -> list[ProjectionStatus]:
    versions = {projection.name: projection.version for projection in runtime.projections}
    return [
        ProjectionStatus(
            name=name,
            version=versions.get(name),
            rebuild_pending_tenants=tenants.pending,
            newer_version_tenants=tenants.newer,
        )
        for name, tenants in outdated.items()
    ]


def _partition_status(
    runtime: Runtime, checkpoint: Checkpoint, end: StreamEnd, progress: PartitionProgress, now_ms: int
) -> PartitionStatus:
    has_lag = end.position is not None and end.position != checkpoint.position
    counted = checkpoint.with_lost_counted(end)
    added = max(checkpoint.read + counted.lost, checkpoint.known_end.added, counted.added_offset + end.added)
    in_flight = added - checkpoint.read - counted.lost
    lag_s = _lag_s(runtime, checkpoint, now_ms) if has_lag else 0.0
    return PartitionStatus(
        partition=checkpoint.partition,
        epoch=checkpoint.epoch,
        position=str(checkpoint.position),
        end_position=str(end.position) if end.position else None,
        lag_entries=in_flight,
        lag_s=lag_s,
        added=added,
        read=checkpoint.read,
        applied=checkpoint.applied,
        duplicates=checkpoint.duplicates,
        dead_lettered=checkpoint.dead_lettered,
        lost=counted.lost,
        in_flight=in_flight,
        # While a backlog is drained, the lag is high although batches are committed.
        stalled=lag_s > STALLED_AFTER_S and not progress.is_moving,
        failure=progress.failure,
    )


def _lag_s(runtime: Runtime, checkpoint: Checkpoint, now_ms: int) -> float:
    """Return the age of the oldest entry after the checkpoint."""
    oldest = runtime.stream.position_after(checkpoint.partition, checkpoint.position)
    return max(0.0, (now_ms - oldest.ms) / 1000) if oldest else 0.0
