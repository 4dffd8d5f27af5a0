"""Drainer: reads the entries after a partition's checkpoint and applies them in batches, until none is left.

`drain_partition` is the RQ job that the dispatcher enqueues: docs/decisions/0003-jobs-carry-no-events.md
"""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

import structlog
from redis.exceptions import RedisError
from rq.timeouts import BaseTimeoutException
from structlog.contextvars import bound_contextvars

from event_stream.streams.entries import StreamEnd
from event_stream.streams.stream import ProjectedPosition
from projections.database.connection import run_while_waiting
from projections.error_classes import describe
from projections.transaction import checkpoint_table
from projections.transaction.apply import Batch, apply
from projections.transaction.checkpoint import Checkpoint
from projections.transaction.checkpoint_table import StaleClaimError
from projections.transaction.projection_state import OutdatedReleaseError
from workers.drain import circuit_breaker
from workers.drain.batch_reader import BatchReader
from workers.drain.batch_size import BatchSize
from workers.drain.circuit_breaker import CircuitBreaker
from workers.drain.clocks import Clocks
from workers.drain.drain_mark import DrainMark
from workers.drain.poison import PoisonSuspect
from workers.drain.recovery import Recovery
from workers.jobs.lease import Lease
from workers.runtime import Runtime, process_runtime
from workers.telemetry.batch_metrics import CommittedBatch
from workers.telemetry.progress import BatchFailure, record_batch, record_failure

BUDGET_S = 2.0

log = structlog.get_logger()


@dataclass
class Drainer:
    """One drain of one partition.

    Several may run at the same time: the claim admits one of them, and the others change nothing.
    """

    runtime: Runtime
    partition: int
    batch_size: BatchSize = field(default_factory=BatchSize)
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    poison: PoisonSuspect = field(default_factory=PoisonSuspect)
    last_checkpoint: Checkpoint | None = None
    attempted: Batch | None = None
    mark: DrainMark = field(init=False)
    reader: BatchReader = field(init=False)
    recovery: Recovery = field(init=False)

    def __post_init__(self) -> None:
        self.mark = DrainMark(self.runtime.queue.connection, self.partition, self.batch_size)
        clocks = Clocks(self.runtime.reader)
        self.reader = BatchReader(self.runtime, self.partition, self.batch_size, self.poison, clocks, self.mark)
        self.recovery = Recovery(self.batch_size, self.poison, self.breaker)

    def step(self, *, read_ahead: bool = False) -> bool:
        """Apply the next batch; returns whether the stream's end is reached.

        With `read_ahead`, the following batch is read before this one is applied, and decoded while the database works.
        Raises StaleClaimError and the errors of the database, Redis and folds; then nothing has changed.
        """
        started_s = time.monotonic()
        expected = self.last_checkpoint or self.checkpoint()
        self.last_checkpoint = self.attempted = None  # after a failure, read the checkpoint from the database
        batch = self.attempted = self.reader.next_batch(expected)
        if batch is None:
            return True
        next_count = self.batch_size.next_count(batch.stream_slice)
        if read_ahead and self.batch_size.allows_read_ahead:
            self.reader.read_ahead(batch, next_count)
        apply_started_s = time.monotonic()
        with run_while_waiting(self.reader.decode_some):
            after = apply(self.runtime.writer, self.runtime.projections, batch, self.runtime.dead_letters.kept_max)
        self._publish(after, CommittedBatch.now(batch, after, started_s, apply_started_s))
        self.breaker.applied({event.tenant_id for event in batch.events})
        self.batch_size.grow(next_count)
        _log_losses(expected, after)
        self.last_checkpoint = after
        return batch.stream_slice.reaches_end

    def has_more(self) -> bool:
        """Return whether the stream has moved past the checkpoint."""
        return needs_drain(self.last_checkpoint or self.checkpoint(), self.runtime.stream.end(self.partition))

    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint in the database, without locking it."""
        with self.runtime.reader.connect() as connection:
            return checkpoint_table.read(connection, self.partition)

    def recover(self, error: Exception) -> float:
        """Prepare the next attempt after a failed step, report the failure, and return the seconds to wait."""
        attempt, text = self.recovery.next_attempt(error, self.attempted), describe(error)
        failure = BatchFailure(
            fault=attempt.error_class,
            error=text,
            consecutive_failures=self.batch_size.consecutive_failures,
            next_batch_entries=self.batch_size.count,
            retry_after_s=round(attempt.pause_s, 3),
        )
        log.warning("drain.failed", partition=self.partition, **failure.model_dump(mode="json"))
        redis = self.runtime.queue.connection
        with suppress(RedisError):  # then only the log reports the failure
            record_failure(redis, self.partition, failure)
            if attempt.breaker_open_reason is not None:
                log.error("breaker.open", partition=self.partition, error=text)
                circuit_breaker.publish(redis, attempt.breaker_open_reason)
        return attempt.pause_s

    def _publish(self, after: Checkpoint, batch: CommittedBatch) -> None:
        """Publish the progress for producers and operators. If Redis fails, the dispatcher publishes it later."""
        stream = self.runtime.stream
        with suppress(RedisError), stream.redis.pipeline(transaction=False) as pipe:
            stream.publish_projected(self.partition, ProjectedPosition(after.position, after.entries_added()), pipe)
            record_batch(pipe, self.partition, batch)
            pipe.execute()


def drain_partition(partition: int, token: str) -> None:
    """Drain a partition with the lease that has this token. This is the RQ job's function."""
    runtime = process_runtime()
    drain_with_lease(runtime, partition, Lease(runtime.queue.connection, partition, token))


def drain_with_lease(runtime: Runtime, partition: int, lease: Lease) -> None:
    """Drain a partition with the batch size, circuit breaker and suspect that this process keeps for it."""
    with bound_contextvars(drain=lease.token[:12], partition=partition):
        state = (_process_batch_size(partition), _process_breaker(), _process_poison(partition))
        run(Drainer(runtime, partition, *state), lease)


def run(drainer: Drainer, lease: Lease, budget_s: float = BUDGET_S) -> None:
    """Step until the stream's end is reached, the time budget is spent or the lease is lost.

    A failed step is logged and tried again. If its pause exceeds the budget, the drain keeps the lease for that long,
    so that no other drain starts earlier. If the Redis that holds the lease fails, the error fails the job, and the
    dispatcher enqueues another. Raises OutdatedReleaseError, which no retry can resolve.
    """
    try:
        _step_until_done(drainer, lease, budget_s)
    finally:
        drainer.mark.remove()


def needs_drain(checkpoint: Checkpoint, end: StreamEnd) -> bool:
    """Return whether a stream ends after or before its checkpoint, has lost entries, or has the wrong type."""
    end_differs = end.position is not None and end.position != checkpoint.position
    return end_differs or checkpoint.with_lost_counted(end) != checkpoint or end.wrong_type


def _step_until_done(drainer: Drainer, lease: Lease, budget_s: float) -> None:
    deadline = time.monotonic() + budget_s
    # Check the deadline first, so that a step follows even if extending the lease takes as long as the budget.
    while time.monotonic() < deadline and lease.acquire_or_extend():
        try:
            is_at_end = drainer.step(read_ahead=True)
        except StaleClaimError as error:
            log.info("drain.stale_checkpoint", partition=drainer.partition, error=str(error))
            drainer.runtime.reader.dispose()  # after a failover, its connections may still read from the old server
            continue
        except BaseTimeoutException:
            raise
        except OutdatedReleaseError:
            lease.release()  # so that a worker of the newer release may continue at once
            raise
        except Exception as error:
            pause_s = drainer.recover(error)
            if time.monotonic() + pause_s > deadline:
                lease.extend(pause_s)
                return
            time.sleep(pause_s)
            continue
        if is_at_end:
            # No job was enqueued for entries that arrived while this drain held the lease, so check the stream again.
            lease.release()
            if not drainer.has_more():
                return
    lease.release()


@cache
def _process_batch_size(_partition: int) -> BatchSize:
    return BatchSize()


@cache
def _process_poison(_partition: int) -> PoisonSuspect:
    return PoisonSuspect()


@cache
def _process_breaker() -> CircuitBreaker:
    return CircuitBreaker()


def _log_losses(before: Checkpoint, after: Checkpoint) -> None:
    """Log a replaced stream, lost entries and dead letters."""
    partition = after.partition
    if after.epoch != before.epoch:
        log.warning("stream.replaced", partition=partition, epoch=after.epoch, last_position=str(before.position))
    if after.lost != before.lost:
        log.error("stream.lost_entries", partition=partition, entries=after.lost - before.lost)
    if after.dead_lettered != before.dead_lettered:
        log.warning("drain.dead_lettered", partition=partition, entries=after.dead_lettered - before.dead_lettered)
