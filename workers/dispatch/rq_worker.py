"""The worker: one RQ SimpleWorker on our queue, with its connections warm, and few words to Redis about each job."""

import gc
import os
import signal
import socket
import time
from importlib import import_module
from types import TracebackType
from uuid import uuid4

from redis.client import Pipeline
from rq import Queue, SimpleWorker, worker_registration
from rq.executions import Execution
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.utils import now
from rq.worker import WorkerStatus

from projections.transaction.projection_version import OutdatedReleaseError
from workers.jobs.queue import ALLOWED, DrainJob
from workers.runtime import Runtime

# RQ waits for a job 15 s less than this, and beats its heart each time: an idle worker every 5 s.
WORKER_TTL_S = 20
BEAT_EVERY_S = 5.0
# More than two batches hold at once: a collection in the midst of them took 35 ms and found next to nothing.
ALLOCATIONS_PER_COLLECTION = 300_000
BEAT_MS = "beat_ms"
# By Redis's clock: RQ writes the host's, and hosts' clocks differ.
_BEAT = """
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], now[1] * 1000 + math.floor(now[2] / 1000))
"""


class DrainWorker(SimpleWorker):
    """RQ's worker, but one that Redis may forget: with every heartbeat it says again who it is.

    It stops at a job that finds read models too new for it; `outdated` tells why then.

    Of each job it tells Redis in one round trip that it begins, and in one that it is done; RQ takes two and a dozen,
    as jobs of others may have dependents, results and limits.
    """

    outdated: OutdatedReleaseError | None = None
    _beat_at = float("-inf")

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Give a sign of life, and register again, should Redis have come back with nothing.

        It is left out while the last is fresh: RQ beats five times a job, and what a fresh one has made known in Redis
        stands there for longer than a job may take.
        """
        if time.monotonic() - self._beat_at < BEAT_EVERY_S:
            return
        with self.connection.pipeline() as own:
            pipe = own if pipeline is None else pipeline
            super().heartbeat(timeout, pipe)
            pipe.hset(self.key, mapping={**self.serialize(), "state": self.get_state()})
            pipe.eval(_BEAT, 1, self.key, BEAT_MS)
            worker_registration.register(self, pipe)
            own.execute()
        self._beat_at = time.monotonic()

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        """Tell whether we are idle or busy, unless that has been told; heartbeats tell it again."""
        if state != self.get_state():
            super().set_state(state, pipeline)

    def prepare_execution(self, job: Job) -> Execution:
        """Tell that a job begins."""
        ttl_s = self.get_heartbeat_ttl(job)
        with self.connection.pipeline() as pipe:
            execution = Execution.create(job, ttl_s, pipe, self.name)
            self.executions[execution.id] = execution
            self.set_state(WorkerStatus.BUSY, pipe)
            self.heartbeat(ttl_s, pipe)
            job.prepare_for_execution(self.name, pipe)
            pipe.persist(job.key)
            pipe.lrem(self.queues[0].intermediate_queue_key, 1, job.id)
            pipe.execute()
        return execution

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:  # noqa: FBT002
        """Add nothing: what RQ tells here `prepare_execution` has told."""

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:  # noqa: ARG002
        """Note when a job ended. RQ beats its heart once more here."""
        job.ended_at = now()

    def handle_job_success(
        self,
        job: Job,
        queue: Queue,  # noqa: ARG002
        started_job_registry: StartedJobRegistry,  # noqa: ARG002
        execution: Execution,
    ) -> None:
        """Tell that a job is done, and forget it: nobody waits for our jobs, and they have no results."""
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
        """Tell what failed; if a newer release has to go on, ask for no other job."""
        super().handle_exception(job, *exc_info)
        if isinstance(exc_info[1], OutdatedReleaseError):
            self.outdated = exc_info[1]
            self.request_stop(signal.SIGTERM, None)  # type: ignore[no-untyped-call]


def tune_gc() -> None:
    """Let garbage collection leave out what is loaded, which stays, and come less often: a batch is freed as a whole.

    It took a tenth of a drain's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS_PER_COLLECTION)


def worker(runtime: Runtime) -> DrainWorker:
    """Return a worker named `<host>.<pid>.<random>`; `.work()` runs it until SIGTERM, which lets the running drain end.

    A drain's own time budget is far below RQ's job timeout. On a second signal RQ gives up the drain too; that loses
    nothing, as its transaction rolls back.
    """
    for function in ALLOWED:  # RQ would import it with the first job, and from what an upgrade may have put there
        import_module(function.rpartition(".")[0])
    return DrainWorker(
        [runtime.queue],
        # In a container the first two repeat, and RQ refuses the name of one that was killed a moment ago.
        name=f"{socket.gethostname()}.{os.getpid()}.{uuid4().hex[:8]}",
        connection=runtime.queue.connection,
        job_class=DrainJob,
        serializer=runtime.queue.serializer,
        worker_ttl=WORKER_TTL_S,
        log_job_description=False,
    )
