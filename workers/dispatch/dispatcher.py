"""Dispatcher: enqueues a drain for each partition whose stream has entries after its checkpoint.

Keys:

    projector:dispatcher-heartbeats  sorted set  the name of every dispatcher, scored by its last sweep, in ms
"""

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import uuid4

import structlog
from redis.exceptions import OutOfMemoryError, RedisError
from sqlalchemy.exc import SQLAlchemyError

from event_stream.streams.entries import StreamEnd
from event_stream.streams.stream import ProjectedPosition
from projections.database.sqlite_engine import shrink_wal
from projections.error_classes import describe
from projections.transaction import checkpoint_table
from projections.transaction.checkpoint import Checkpoint
from workers.dispatch.dead_letter_expiry import DeadLetterExpiry
from workers.dispatch.trimmer import Trimmer
from workers.drain.drainer import drain_with_lease, needs_drain
from workers.jobs.foreign_jobs import remove_foreign_jobs
from workers.jobs.lease import Lease, partitions_without_lease
from workers.jobs.queue import enqueue_drain
from workers.maintenance import verify_jobs
from workers.runtime import Runtime
from workers.telemetry.progress import record_waits

HEARTBEATS_KEY = "projector:dispatcher-heartbeats"
HEARTBEAT_TTL_S = 120  # status shows a stalled dispatcher until then
IDLE_SWEEP_S = 1.0
BUSY_SWEEP_S = 0.05
OUTAGE_PAUSE_S = 1.0
QUEUED_PER_PARTITION = 2
VERIFY_CHECK_EVERY_S = 5.0
WAL_CHECK_EVERY_S = 5.0

log = structlog.get_logger()


@dataclass
class Dispatcher:
    """Compares all streams with their checkpoints, again and again.

    Several may run at the same time. Its state only saves work, so it can be killed at any time.
    """

    runtime: Runtime
    # In a container, host and pid repeat: without the random part, a new process would revive the record of a dead one.
    name: str = field(default_factory=lambda: f"{socket.gethostname()}.{os.getpid()}.{uuid4().hex[:8]}")
    trimmer: Trimmer = field(init=False)
    dead_letter_expiry: DeadLetterExpiry = field(init=False)
    queue_room: int = field(init=False)
    verify_checked_s: float = float("-inf")
    wal_checked_s: float = float("-inf")
    caught_up_s: float = field(default_factory=time.monotonic)
    has_heartbeat: bool = False

    def __post_init__(self) -> None:
        self.trimmer = Trimmer(self.runtime)
        self.dead_letter_expiry = DeadLetterExpiry(self.runtime)
        self.queue_room = QUEUED_PER_PARTITION * self.runtime.stream.partitions

    def run(self, stopped: Callable[[], bool]) -> None:
        """Sweep until `stopped`, and listen to idle streams between sweeps; then sign off.

        An outage is logged and retried.
        """
        while not stopped():
            try:
                ends, lagging = self.sweep()
                self._schedule_verification(is_lagging=bool(lagging))
                self.dead_letter_expiry.step()
                if not lagging:
                    self._shrink_wal()
                idle = {partition: end for partition, end in enumerate(ends) if partition not in lagging}
                self._listen(idle, BUSY_SWEEP_S if lagging else IDLE_SWEEP_S)
            except (RedisError, SQLAlchemyError) as error:
                log.warning("dispatcher.outage", error=describe(error))
                self.has_heartbeat = False
                time.sleep(OUTAGE_PAUSE_S)
        if self.has_heartbeat:  # after an outage, it would only delay the end
            self._sign_off()

    def sweep(self) -> tuple[list[StreamEnd], list[int]]:
        """Enqueue drains for all partitions that need one; returns the streams' ends and these partitions.

        Raises the errors of Redis and the database; the next sweep then starts over.
        """
        stream = self.runtime.stream
        # Read hints, then checkpoints, then ends: a hint that differs from a checkpoint at the end is then out of date.
        hints = stream.projected(range(stream.partitions))
        with self.runtime.reader.connect() as connection:
            checkpoints = checkpoint_table.read_all(connection, stream.partitions)
        ends = stream.ends()
        lagging = [
            checkpoint.partition
            for checkpoint, end in zip(checkpoints, ends, strict=True)
            if needs_drain(checkpoint, end)
        ]
        # Trim first: a full Redis still removes entries, but refuses leases, jobs and hints until there is memory.
        self.trimmer.update(checkpoints)
        # Bound the queue while no worker runs. Each drain enqueued before the next sweep uses up one place.
        self.queue_room = QUEUED_PER_PARTITION * stream.partitions - self._count_queued()
        # During a backlog most leases are held: docs/decisions/0010-the-dispatcher-listens.md
        self._enqueue_drains(partitions_without_lease(self.runtime.queue.connection, lagging) if lagging else [])
        self._repair_hints(hints, checkpoints, ends)
        self._send_heartbeat([checkpoints[partition] for partition in lagging])
        return ends, lagging

    def _count_queued(self) -> int:
        """Return the length of the queue. If it holds more than the dispatchers enqueue, foreign jobs are removed."""
        queue = self.runtime.queue
        count: int = queue.count
        if count > QUEUED_PER_PARTITION * self.runtime.stream.partitions + 1:  # one job verifies
            with suppress(OutOfMemoryError):  # then the queue also holds jobs that must stay
                if removed := remove_foreign_jobs(queue):
                    log.warning("queue.foreign_jobs_removed", jobs=removed)
            count = queue.count
        return count

    def _listen(self, idle: dict[int, StreamEnd], until_sweep_s: float) -> None:
        """Enqueue a drain at once for each stream that grows past its end in `idle`.

        Returns when the next sweep comes: after `until_sweep_s`, or BUSY_SWEEP_S after the first stream grew.
        """
        deadline = time.monotonic() + until_sweep_s
        while (left_s := deadline - time.monotonic()) > 0:
            if not idle:
                time.sleep(left_s)
                return
            grown = self.runtime.stream.wait_for_more(idle, left_s)
            if grown:
                self._enqueue_drains(grown)
                idle = {partition: end for partition, end in idle.items() if partition not in grown}
                deadline = min(deadline, time.monotonic() + BUSY_SWEEP_S)

    def _enqueue_drains(self, partitions: list[int]) -> None:
        queue = self.runtime.queue
        for partition in partitions:
            lease = Lease(queue.connection, partition)
            try:
                if self.queue_room > 0 and lease.acquire():
                    enqueue_drain(queue, partition, lease.token)
                    self.queue_room -= 1
            except OutOfMemoryError:
                # Redis may be full of waiting entries. Then no job can be enqueued, so this process drains them.
                log.warning("dispatcher.draining_inline", partition=partition)
                drain_with_lease(self.runtime, partition, lease)

    def _schedule_verification(self, *, is_lagging: bool) -> None:
        """Enqueue verification when a pass is pending. A backlog delays it by at most one interval."""
        now_s = time.monotonic()
        if not is_lagging:
            self.caught_up_s = now_s
        has_waited = not is_lagging or now_s - self.caught_up_s > verify_jobs.PASS_INTERVAL_S
        if has_waited and now_s - self.verify_checked_s > VERIFY_CHECK_EVERY_S:
            self.verify_checked_s = now_s
            with suppress(OutOfMemoryError):  # verification can wait
                verify_jobs.enqueue_next_pass(self.runtime)

    def _shrink_wal(self) -> None:
        """Let SQLite's write-ahead log become small again after a long read."""
        if time.monotonic() - self.wal_checked_s > WAL_CHECK_EVERY_S:
            self.wal_checked_s = time.monotonic()
            shrink_wal(self.runtime.reader)

    def _repair_hints(
        self, hints: dict[int, ProjectedPosition], checkpoints: list[Checkpoint], ends: list[StreamEnd]
    ) -> None:
        """Publish the progress that a drain could not publish after its commit, or that Redis lost."""
        for checkpoint, end in zip(checkpoints, ends, strict=True):
            progress = ProjectedPosition(checkpoint.position, checkpoint.entries_added())
            if (
                end.position is not None
                and end.position == checkpoint.position
                and hints[checkpoint.partition] != progress
            ):
                self.runtime.stream.publish_projected(checkpoint.partition, progress)

    def _send_heartbeat(self, waiting: list[Checkpoint]) -> None:
        """Record that this process lives, and at which checkpoints entries wait."""
        now_ms, ttl_ms = self.runtime.stream.now_ms(), HEARTBEAT_TTL_S * 1000
        with self.runtime.queue.connection.pipeline() as pipe:
            pipe.zadd(HEARTBEATS_KEY, {self.name: now_ms})
            pipe.zremrangebyscore(HEARTBEATS_KEY, "-inf", now_ms - ttl_ms)
            pipe.zremrangebyscore(HEARTBEATS_KEY, now_ms + ttl_ms, "inf")  # sent before the clock was set back
            pipe.expire(HEARTBEATS_KEY, HEARTBEAT_TTL_S)
            record_waits(self.runtime.queue.connection, pipe, waiting, now_ms)
            pipe.execute()
        self.has_heartbeat = True
        self.runtime.stream.announce_partitions()  # in case Redis has lost the key

    def _sign_off(self) -> None:
        """Remove the heartbeat, so that a clean end is not reported as a silent process."""
        try:
            self.runtime.queue.connection.zrem(HEARTBEATS_KEY, self.name)
        except RedisError as error:  # the heartbeat expires by itself
            log.warning("dispatcher.sign_off_failed", error=describe(error))
