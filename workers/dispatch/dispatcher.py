"""The dispatcher: wherever a stream's end is past its checkpoint and nobody works on it, ring for a drain.

Keys:

    projector:dispatcher-heartbeats  sorted set  `<host>.<pid>` of every dispatcher, scored by its last sweep, in ms
"""

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
from redis.exceptions import OutOfMemoryError, RedisError
from sqlalchemy.exc import SQLAlchemyError

from event_stream.entries import StreamEnd
from event_stream.stream import Progress
from projections.error_classes import describe
from projections.transaction import checkpoint
from projections.transaction.checkpoint import Checkpoint
from workers.dispatch.trimmer import Trimmer
from workers.drain.drainer import drain_here, needs_drain
from workers.jobs.lease import Lease, without_lease
from workers.jobs.queue import enqueue_drain
from workers.maintenance import verify_jobs
from workers.runtime import Runtime

HEARTBEATS_KEY = "projector:dispatcher-heartbeats"
HEARTBEAT_TTL_S = 120  # long enough to be seen to have stalled
IDLE_SWEEP_S = 1.0
BUSY_SWEEP_S = 0.05
OUTAGE_PAUSE_S = 1.0
QUEUED_PER_PARTITION = 2
LOOK_FOR_VERIFIED_S = 5.0

log = structlog.get_logger()


@dataclass
class Dispatcher:
    """Sweeps over all partitions. Any number may run at once; losing one's memory costs nothing."""

    runtime: Runtime
    trimmer: Trimmer = field(init=False)
    room: int = field(init=False)
    looked_s: float = float("-inf")
    caught_up_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.trimmer = Trimmer(self.runtime)
        self.room = QUEUED_PER_PARTITION * self.runtime.stream.partitions

    def sweep(self) -> tuple[list[StreamEnd], list[int]]:
        """Ring for what needs it; returns the streams' ends and the partitions that are behind.

        Raises what Redis or the database raise; nothing is lost by it.
        """
        stream = self.runtime.stream
        # In this order, so that what is mended below is known to be older than the checkpoint, and that the last.
        hints = stream.projected(range(stream.partitions))
        with self.runtime.reader.connect() as connection:
            checkpoints = checkpoint.read_all(connection, stream.partitions)
        ends = stream.ends()
        behind = [at.partition for at, end in zip(checkpoints, ends, strict=True) if needs_drain(at, end)]
        # First, as a Redis that is full lets entries go, but takes nothing: no lease, no job, no hint.
        self.trimmer.note(checkpoints)
        # Nobody may be there to answer for hours; the queue must not grow meanwhile. Until the next sweep there is as
        # much room, or more as jobs are taken.
        self.room = QUEUED_PER_PARTITION * stream.partitions - self.runtime.queue.count
        # Most are being worked on while there is a backlog: to be told so by each would be two round trips a partition.
        self._ring(without_lease(self.runtime.queue.connection, behind) if behind else [])
        self._mend_hints(hints, checkpoints, ends)
        self._beat()
        return ends, behind

    def run(self, stopped: Callable[[], bool]) -> None:
        """Sweep until `stopped`, and in between ring where a stream grows. Outlives every outage."""
        while not stopped():
            try:
                ends, behind = self.sweep()
                self._ask_to_verify(is_behind=bool(behind))
                quiet = {partition: end for partition, end in enumerate(ends) if partition not in behind}
                self._listen(quiet, BUSY_SWEEP_S if behind else IDLE_SWEEP_S)
            except (RedisError, SQLAlchemyError) as error:
                log.warning("dispatcher.outage", error=describe(error))
                time.sleep(OUTAGE_PAUSE_S)

    def _listen(self, quiet: dict[int, StreamEnd], until_sweep_s: float) -> None:
        """Ring for each stream that grows past its end in `quiet`, at once; a sweep would look at everything first.

        Returns when it is time to sweep: in `until_sweep_s`, or BUSY_SWEEP_S after the first stream grew.
        """
        deadline = time.monotonic() + until_sweep_s
        while (left_s := deadline - time.monotonic()) > 0:
            if not quiet:
                time.sleep(left_s)
                return
            grown = self.runtime.stream.wait_for_more(quiet, left_s)
            if grown:
                self._ring(grown)
                quiet = {partition: end for partition, end in quiet.items() if partition not in grown}
                deadline = min(deadline, time.monotonic() + BUSY_SWEEP_S)

    def _ring(self, behind: list[int]) -> None:
        queue = self.runtime.queue
        for partition in behind:
            lease = Lease(queue.connection, partition)
            try:
                if self.room > 0 and lease.take():
                    enqueue_drain(queue, partition, lease.token)
                    self.room -= 1
            except OutOfMemoryError:
                # Full perhaps of what waits: nobody can be rung for, and nothing goes until somebody drains.
                log.warning("dispatcher.draining_inline", partition=partition)
                drain_here(self.runtime, partition, lease)

    def _ask_to_verify(self, *, is_behind: bool) -> None:
        """See that verification goes on; to catch up comes first, but not for ever."""
        now_s = time.monotonic()
        if not is_behind:
            self.caught_up_s = now_s
        has_waited = not is_behind or now_s - self.caught_up_s > verify_jobs.EVERY_S
        if has_waited and now_s - self.looked_s > LOOK_FOR_VERIFIED_S:
            self.looked_s = now_s
            with suppress(OutOfMemoryError):  # it can wait
                verify_jobs.ask_if_due(self.runtime)

    def _mend_hints(self, hints: dict[int, Progress], checkpoints: list[Checkpoint], ends: list[StreamEnd]) -> None:
        """Publish what a drain that died after its commit could not, or what Redis forgot."""
        for at, end in zip(checkpoints, ends, strict=True):
            progress = Progress(at.position, at.entries_added())
            if end.position is not None and end.position == at.position and hints[at.partition] != progress:
                self.runtime.stream.publish_projected(at.partition, progress)

    def _beat(self) -> None:
        now_ms = self.runtime.stream.now_ms()
        with self.runtime.queue.connection.pipeline() as pipe:
            pipe.zadd(HEARTBEATS_KEY, {f"{socket.gethostname()}.{os.getpid()}": now_ms})
            pipe.zremrangebyscore(HEARTBEATS_KEY, "-inf", now_ms - HEARTBEAT_TTL_S * 1000)
            pipe.expire(HEARTBEATS_KEY, HEARTBEAT_TTL_S)
            pipe.execute()
        self.runtime.stream.announce_partitions()  # again, should Redis have forgotten it
