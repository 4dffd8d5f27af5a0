"""The drain: read from the checkpoint, judge, apply, until nothing is left or the time is up."""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

import structlog
from redis.exceptions import RedisError
from rq.timeouts import BaseTimeoutException
from structlog.contextvars import bound_contextvars

from event_stream.entries import StreamEnd
from event_stream.stream import Progress
from projections.database.connection import run_while_waiting
from projections.error_classes import ErrorClass, classify_error, describe, is_out_of_memory
from projections.transaction import checkpoint
from projections.transaction.apply import Batch, apply
from projections.transaction.checkpoint import Checkpoint, StaleClaimError
from projections.transaction.projection_version import OutdatedReleaseError
from workers.drain import circuit_breaker
from workers.drain.batch_reader import BatchReader
from workers.drain.batch_size import NARROWING_STEPS_MAX, BatchSize
from workers.drain.circuit_breaker import PROBE_S, CircuitBreaker
from workers.jobs.lease import Lease
from workers.runtime import Runtime, process_runtime
from workers.telemetry.batch_metrics import CommittedBatch
from workers.telemetry.progress import Failure, note_batch, note_failure

BUDGET_S = 2.0

log = structlog.get_logger()


@dataclass
class Drainer:
    """One drain of one partition. Any number may run at once: the claim lets one through, the others change nothing."""

    runtime: Runtime
    partition: int
    pace: BatchSize = field(default_factory=BatchSize)
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    at: Checkpoint | None = None
    tried: Batch | None = None
    intake: BatchReader = field(init=False)

    def __post_init__(self) -> None:
        self.intake = BatchReader(self.runtime, self.partition, self.pace)

    def step(self, *, look_ahead: bool = False) -> bool:
        """Apply the next batch; returns whether the stream's end is reached.

        With `look_ahead` the next one is read first, and judged wherever the database has to be waited for.
        Raises StaleClaimError, or what the database, Redis or a fold raise; nothing has changed then.
        """
        began_s = time.monotonic()
        expected = self.at or self.checkpoint()
        self.at = self.tried = None  # what follows may fail, and then only the database knows
        batch = self.tried = self.intake.take(expected)
        if batch is None:
            return True
        faster = self.pace.count_after(batch.reading)
        if look_ahead and self.pace.allows_look_ahead:
            self.intake.look_ahead(batch, faster)
        applying_s = time.monotonic()
        with run_while_waiting(self.intake.decode_some):
            after = apply(self.runtime.writer, self.runtime.projections, batch)
        self._tell(after, CommittedBatch.now(batch, after, began_s, applying_s))
        self.breaker.applied({event.tenant_id for event in batch.events})
        self.pace.speed_up(faster)
        _report(expected, after)
        self.at = after
        return batch.reading.reaches_end

    def has_more(self) -> bool:
        """Return whether the stream has moved past the checkpoint."""
        return needs_drain(self.at or self.checkpoint(), self.runtime.stream.end(self.partition))

    def blame(self, error: Exception) -> bool:
        """Note that the batch failed through what is in it; returns whether so much fails that it must be us."""
        batch = self.tried
        if batch is None or not batch.events:
            self.pace.slow_down()
            return False
        self.pace.blame(batch, error)
        if self.pace.gives_up_on(batch.start.epoch, batch.positions[0]):
            self.breaker.failed(batch.events[0].tenant_id)
        if self.breaker.is_open:
            self.pace.forgive()
            return True
        return False

    def _tell(self, after: Checkpoint, batch: CommittedBatch) -> None:
        """Let producers and operators see the progress; what Redis does not take now, the dispatcher mends."""
        stream = self.runtime.stream
        with suppress(RedisError), stream.redis.pipeline(transaction=False) as pipe:
            stream.publish_projected(self.partition, Progress(after.position, after.entries_added()), pipe)
            note_batch(pipe, self.partition, batch)
            pipe.execute()

    def checkpoint(self) -> Checkpoint:
        """Return where the database is, without locking it."""
        with self.runtime.reader.connect() as connection:
            return checkpoint.read(connection, self.partition)


def drain_partition(partition: int, token: str) -> None:
    """Apply what lies behind `partition`'s checkpoint: the RQ job that the dispatcher rings with."""
    runtime = process_runtime()
    drain_here(runtime, partition, Lease(runtime.queue.connection, partition, token))


def drain_here(runtime: Runtime, partition: int, lease: Lease) -> None:
    """Apply what lies behind `partition`'s checkpoint, with what this process has learnt of it."""
    with bound_contextvars(drain=lease.token[:12], partition=partition):
        run(Drainer(runtime, partition, _pace_of(partition), _process_breaker()), lease)


def run(drainer: Drainer, lease: Lease, budget_s: float = BUDGET_S) -> None:
    """Step until the stream's end, the budget's end or the lease's loss.

    An outage met by a step is not an error of the job: it is logged, and the lease is kept for a while, so that nobody
    rings before it is worth trying again. Without the Redis of the lease the job fails; the dispatcher rings again.
    Raises OutdatedReleaseError: there is nothing to wait for.
    """
    deadline = time.monotonic() + budget_s
    # In this order, so that a step is made even where entering takes as long as the budget.
    while time.monotonic() < deadline and lease.enter():
        try:
            dry = drainer.step(look_ahead=True)
        except StaleClaimError as error:
            log.info("drain.stale_checkpoint", partition=drainer.partition, error=str(error))
            continue
        except BaseTimeoutException:
            raise
        except OutdatedReleaseError:
            lease.release()  # a newer release may go on at once
            raise
        except Exception as error:
            pause_s = _pause_after(error, drainer)
            if time.monotonic() + pause_s > deadline:
                lease.keep(pause_s)
                return
            time.sleep(pause_s)
            continue
        if dry:
            # What arrived while we were still holding the lease has rung for nobody.
            lease.release()
            if not drainer.has_more():
                return
    lease.release()


def needs_drain(at: Checkpoint, end: StreamEnd) -> bool:
    """Return whether a stream's end is not where its checkpoint is, ahead of it or behind, or cannot be known."""
    return (end.position is not None and end.position != at.position) or at.settled(end) != at or end.wrong_type


def _pause_after(error: Exception, drainer: Drainer) -> float:
    """Tell what is wrong, once, and return how many seconds to wait before trying again."""
    fault = classify_error(error, interruptions=(BaseTimeoutException,))
    pace, text = drainer.pace, describe(error)
    is_open = fault is ErrorClass.INTERNAL and drainer.blame(error)
    if is_open:
        pause_s = PROBE_S
    elif _narrows(pace, error, fault):
        pause_s = 0.0
    else:
        pause_s = pace.back_off_s()
    failure = Failure(
        fault=fault,
        error=text,
        consecutive_failures=pace.failed_in_a_row,
        next_batch_entries=pace.count,
        retry_after_s=round(pause_s, 3),
    )
    log.warning("drain.failed", partition=drainer.partition, **failure.model_dump(mode="json"))
    redis = drainer.runtime.queue.connection
    with suppress(RedisError):  # without it nobody can be told, but the log
        note_failure(redis, drainer.partition, failure)
        if is_open:
            log.error("breaker.open", partition=drainer.partition, error=text)
            circuit_breaker.publish(redis, f"events of most tenants fail: {text}")
    return pause_s


def _narrows(pace: BatchSize, error: Exception, fault: ErrorClass) -> bool:
    """Take on less after a failure; returns whether that is to be tried at once, as it may well go."""
    if is_out_of_memory(error):
        return pace.take_on_less()
    if fault is ErrorClass.EXTERNAL:
        pace.slow_down()
        return False
    return pace.failed_in_a_row <= NARROWING_STEPS_MAX  # what is to blame has narrowed it


@cache
def _pace_of(_partition: int) -> BatchSize:
    return BatchSize()


@cache
def _process_breaker() -> CircuitBreaker:
    return CircuitBreaker()


def _report(before: Checkpoint, after: Checkpoint) -> None:
    if after.epoch != before.epoch:
        log.warning("stream.replaced", partition=after.partition, epoch=after.epoch, last_position=str(before.position))
    if after.lost != before.lost:
        log.error("stream.lost_entries", partition=after.partition, entries=after.lost - before.lost)
    if after.dead_lettered != before.dead_lettered:
        log.warning(
            "drain.dead_lettered", partition=after.partition, entries=after.dead_lettered - before.dead_lettered
        )
