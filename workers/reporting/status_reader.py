"""Reads the status of the deployment from the database and from Redis.

The two halves can be read separately, because `GET /metrics` must report one half if the other cannot be read
(docs/decisions/0041-one-reading-for-status-health-and-metrics.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from event_stream.streams.deployment import RedisDeployment, read_deployment, redis_place
from event_stream.streams.entries import LARGEST, StreamEnd
from event_stream.streams.unread_streams import find_likely
from projections import schema
from projections.database.clock import read_clock_ms
from projections.database.standby import is_standby
from projections.lifecycle import lost_entries
from projections.transaction import checkpoint_table, dead_letter_counts, deployment_table, projection_version
from projections.transaction.checkpoint import Checkpoint
from projections.transaction.dead_letter_counts import OpenCount
from projections.transaction.deployment_table import DatabaseDeployment
from projections.transaction.projection_version import TenantCounts
from workers import deployment
from workers.drain import circuit_breaker
from workers.maintenance import verify_pass, verify_results
from workers.maintenance.verify_results import VerificationSummary
from workers.reporting.both_servers import read_both
from workers.reporting.heartbeats import read_dispatchers, read_workers
from workers.reporting.status import PartitionStatus, ProcessStatus, ProjectionStatus, Status
from workers.runtime import Runtime
from workers.telemetry.dead_letter_sources import read_sources
from workers.telemetry.progress import STALLED_AFTER_S, PartitionProgress, read_progress
from workers.telemetry.write_probe import read_write_refusal


@dataclass(frozen=True, slots=True, eq=False)
class DatabaseState:
    """The half of the status that the database knows, with its time. `outdated` counts tenants for each projection."""

    now_ms: int
    deployment: DatabaseDeployment
    is_standby: bool
    checkpoints: Sequence[Checkpoint]
    lost_acknowledged: Mapping[int, int]
    open_dead_letters: dict[str, OpenCount]
    outdated: Mapping[str, TenantCounts]


@dataclass(frozen=True, slots=True)
class RedisState:
    """The half of the status that Redis knows, without the streams."""

    deployment: RedisDeployment
    refusal: str | None
    unread_streams: dict[str, int]
    queue_length: int
    workers: list[ProcessStatus]
    dispatchers: list[ProcessStatus]
    breaker_open_reason: str | None
    verification: VerificationSummary


def read_status(runtime: Runtime) -> Status:
    """Return the status of the deployment; raises the errors of `read_both`."""
    return combine(runtime, *read_both(partial(read_database_state, runtime), partial(read_redis_state, runtime)))


def read_database_state(runtime: Runtime) -> DatabaseState:
    """Return the database's half; raises database errors and those of `schema.check`."""
    with runtime.reader.connect() as connection:
        schema.check(connection)
        checkpoints = checkpoint_table.read_all(connection, runtime.stream.partitions)
        outdated = projection_version.count_tenants(connection, runtime.projections)
        return DatabaseState(
            now_ms=read_clock_ms(connection),
            deployment=deployment_table.read_deployment(connection),
            is_standby=is_standby(connection),
            checkpoints=checkpoints,
            lost_acknowledged=lost_entries.count_acknowledged(connection),
            open_dead_letters=dead_letter_counts.count_open_by_reason(connection),
            outdated=outdated,
        )


def read_redis_state(runtime: Runtime) -> RedisState:
    """Return the half of Redis; raises RedisError."""
    return RedisState(
        deployment=read_deployment(runtime.stream.redis),
        refusal=read_write_refusal(runtime.stream.redis),
        unread_streams=find_likely(runtime.stream.redis, runtime.stream.partitions),
        queue_length=runtime.queue.count,
        workers=read_workers(runtime),
        dispatchers=read_dispatchers(runtime),
        breaker_open_reason=circuit_breaker.read(runtime.queue.connection),
        verification=_read_verification(runtime),
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
        deployment=deployment.combine(database.deployment, redis.deployment, redis_place(runtime.stream.redis)),
        partitions=[
            _partition_status(runtime, checkpoint, end, partition_progress, now_ms, database)
            for checkpoint, end, partition_progress in partitions
        ],
        read_from_standby=database.is_standby,
        open_dead_letters={reason: count.total for reason, count in database.open_dead_letters.items()},
        dead_letters_not_kept={
            reason: count.not_kept for reason, count in database.open_dead_letters.items() if count.not_kept
        },
        dead_letter_sources=read_sources(runtime.queue.connection, runtime.stream.partitions, now_ms),
        redis_refusal=redis.refusal,
        unread_streams=redis.unread_streams,
        queue_length=redis.queue_length,
        workers=redis.workers,
        dispatchers=redis.dispatchers,
        breaker_open_reason=redis.breaker_open_reason,
        projections=_projection_statuses(runtime, database.outdated),
        verification=redis.verification,
    )


def _read_verification(runtime: Runtime) -> VerificationSummary:
    overdue = verify_pass.read_overdue(runtime.queue.connection)
    summary = verify_results.read(runtime.queue.connection)
    return summary.model_copy(update={"overdue_tenants": overdue.tenants, "overdue_logs": overdue.logs})


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
    runtime: Runtime,
    checkpoint: Checkpoint,
    end: StreamEnd,
    progress: PartitionProgress,
    now_ms: int,
    database: DatabaseState,
) -> PartitionStatus:
    is_replaced = end.position is not None and end.position < checkpoint.position
    counted = checkpoint.new_epoch(end) if is_replaced else checkpoint.with_lost_counted(end)
    known_added = 0 if is_replaced else checkpoint.known_end.added
    added = max(checkpoint.read + counted.lost, known_added, counted.added_offset + end.added)
    in_flight = added - checkpoint.read - counted.lost
    has_lag = end.position is not None and end.position != checkpoint.position
    age_ms = _age_ms(runtime, counted, now_ms) if has_lag else 0
    waited_ms = progress.waited_ms(checkpoint, now_ms) if has_lag else 0
    return PartitionStatus(
        partition=checkpoint.partition,
        epoch=checkpoint.epoch,
        position=str(checkpoint.position),
        end_position=str(end.position) if end.position else None,
        lag_entries=in_flight,
        lag_s=max(age_ms, waited_ms, 1) / 1000 if has_lag else 0.0,
        id_ahead_s=_id_ahead_s(runtime, end, database.now_ms),
        ids_exhausted=end.last_id == LARGEST,
        added=added,
        read=checkpoint.read,
        applied=checkpoint.applied,
        duplicates=checkpoint.duplicates,
        dead_lettered=checkpoint.dead_lettered,
        lost=counted.lost,
        # Entries may have been acknowledged after the checkpoint was read.
        lost_not_acknowledged=max(0, counted.lost - database.lost_acknowledged.get(checkpoint.partition, 0)),
        in_flight=in_flight,
        # While a backlog is drained, the lag is high although batches are committed.
        stalled=max(waited_ms, 0 if progress.is_moving else age_ms) / 1000 > STALLED_AFTER_S,
        failure=progress.failure,
    )


def _age_ms(runtime: Runtime, checkpoint: Checkpoint, now_ms: int) -> int:
    """Return the age of the oldest entry after a checkpoint by its id; 0 if the id is ahead of Redis's clock."""
    oldest = runtime.stream.position_after(checkpoint.partition, checkpoint.position)
    return max(0, now_ms - oldest.ms) if oldest else 0


def _id_ahead_s(runtime: Runtime, end: StreamEnd, now_ms: int) -> float:
    """Return how far a stream's last id is ahead of the database's clock, if that is more than clocks may differ."""
    ahead_s = (end.last_id.ms - now_ms) / 1000
    return ahead_s if ahead_s > runtime.settings.max_clock_skew_s else 0.0
