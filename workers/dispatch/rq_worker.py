"""The worker process: RQ's SimpleWorker with fewer round trips to Redis, which survives a Redis that lost its data."""

import gc
import os
import signal
import socket
import time
from importlib import import_module
from types import FrameType, TracebackType
from uuid import uuid4

from redis.client import Pipeline
from rq import Queue, SimpleWorker, worker_registration
from rq.executions import Execution
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.utils import now
from rq.worker import WorkerStatus

from projections.transaction.projection_state import OutdatedReleaseError
from workers.jobs.queue import ALLOWED, DrainJob, DrainQueue
from workers.runtime import Runtime

# RQ waits for a job for 15 s less than this before it sends a heartbeat, so an idle worker sends one every 5 s.
WORKER_TTL_S = 20
HEARTBEAT_EVERY_S = 5.0
ALLOCATIONS_PER_COLLECTION = 300_000  # more than two batches hold
HEARTBEAT_FIELD = "beat_ms"
# By Redis's clock: RQ writes the host's time, and the clocks of hosts differ.
_RECORD_HEARTBEAT = """
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], now[1] * 1000 + math.floor(now[2] / 1000))
"""


class DrainWorker(SimpleWorker):
    """RQ's SimpleWorker with five overrides: a job takes 6 round trips to Redis instead of 27.

    Three of them keep a guarantee: `heartbeat`, `handle_execution_ended` and `handle_exception`. Two save round trips:
    `set_state` and `handle_job_success`. Reasons and measurements:
    docs/decisions/0011-few-round-trips-per-job.md

    The worker stops at a job that finds read models of a newer release; `outdated` is then the error.
    """

    outdated: OutdatedReleaseError | None = None
    was_asked_to_stop = False
    _heartbeat_s = float("-inf")

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Send a heartbeat unless the last one is fresh, and register again in case Redis lost the worker.

        RQ sends five heartbeats per job. Skipping some is safe, because a heartbeat is valid for longer than any job.
        """
        if time.monotonic() - self._heartbeat_s < HEARTBEAT_EVERY_S:
            return
        with self.connection.pipeline() as own_pipe:
            pipe = own_pipe if pipeline is None else pipeline
            super().heartbeat(timeout, pipe)
            pipe.hset(self.key, mapping={**self.serialize(), "state": self.get_state()})
            pipe.eval(_RECORD_HEARTBEAT, 1, self.key, HEARTBEAT_FIELD)
            worker_registration.register(self, pipe)
            own_pipe.execute()
        self._heartbeat_s = time.monotonic()

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Stop after the running job, and remember it, since RQ returns in the same way after an error."""
        self.was_asked_to_stop = True
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        """Write the state only if it changes; heartbeats repeat it."""
        if state != self.get_state():
            super().set_state(state, pipeline)

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:  # noqa: ARG002
        """Record when a job ended, in this process only.

        RQ also writes to the job's hash. If Redis is full at that moment, the error would end the worker.
        """
        job.ended_at = now()

    def handle_job_success(
        self,
        job: Job,
        queue: Queue,  # noqa: ARG002
        started_job_registry: StartedJobRegistry,  # noqa: ARG002
        execution: Execution,
    ) -> None:
        """Delete a finished job in one round trip: it has no result, dependents, repeats or rate limit."""
        assert job.started_at is not None
        assert job.ended_at is not None
        with self.connection.pipeline() as pipe:
            self.increment_successful_job_count(pipe)
            self.increment_total_working_time(job.ended_at - job.started_at, pipe)
            self.cleanup_execution(job, pipe, execution)
            pipe.delete(job.key)
            self.set_state(WorkerStatus.IDLE, pipe)
            pipe.execute()

    def handle_exception(self, job: Job, *exc_info: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Log the error of a job, and stop the worker if only a newer release can continue."""
        super().handle_exception(job, *exc_info)
        if isinstance(exc_info[1], OutdatedReleaseError):
            self.outdated = exc_info[1]
            self.request_stop(signal.SIGTERM, None)


def create_worker(runtime: Runtime) -> DrainWorker:
    """Return a worker named `<host>.<pid>.<random>`.

    `.work()` runs it until SIGTERM, after which the running drain ends within its time budget. A second signal aborts
    the drain, which is harmless because its transaction rolls back.
    """
    for function in ALLOWED:  # import now, because an upgrade may replace the files before the first job
        import_module(function.rpartition(".")[0])
    return DrainWorker(
        [runtime.queue],
        # Host and pid repeat in containers, and RQ refuses the name of a worker that was killed a moment ago.
        name=f"{socket.gethostname()}.{os.getpid()}.{uuid4().hex[:8]}",
        connection=runtime.queue.connection,
        job_class=DrainJob,
        queue_class=DrainQueue,
        serializer=runtime.queue.serializer,
        worker_ttl=WORKER_TTL_S,
        log_job_description=False,
    )


def tune_gc() -> None:
    """Exclude all loaded objects from garbage collection, and collect less often.

    Why: docs/decisions/0045-tune-the-garbage-collector.md
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS_PER_COLLECTION)
