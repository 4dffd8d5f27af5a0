"""RQ as a bell: one queue of jobs that say "drain partition p" or "verify for a while"; a lease.

Keys beside RQ's own:

    projector:drain-lease:{p}  string  the token of the drain that is queued for, or works on, partition p; expires
"""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from workers.errors import WorkersError

QUEUE_NAME = "projector"
DRAIN = "workers.drain.drainer.drain_partition"
VERIFY = "workers.maintenance.verify_jobs.work_for_a_while"
ALLOWED = (DRAIN, VERIFY)
JOB_TIMEOUT_S = 60
FAILURE_TTL_S = 3600
_VERIFY_ID = "verify-"


class ForbiddenJobError(WorkersError):
    """A job on our queue asks for something that we do not do for a job; it is refused, and fails."""


class DrainJob(Job):
    """A job that can do nothing but drain and verify: whatever else its hash names is refused or left out.

    RQ imports and calls any path that a job names, even with JSON. So that writing to Redis is not enough to run code,
    the function is taken from an allow-list, and callbacks and webhooks are dropped.
    """

    def restore(self, raw_data: Mapping[Any, Any]) -> None:
        """Fill the job from its hash, without what could call out."""
        super().restore(raw_data)
        self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None
        self.webhooks = []

    @property
    def func(self) -> Any:
        """The function to call; raises ForbiddenJobError for any that is not on the list."""
        if self.func_name not in ALLOWED or self.instance is not None:
            only = ", ".join(ALLOWED)
            raise ForbiddenJobError(f"job {self.id} names {self.func_name!r}; only {only} run on this queue")
        return super().func


def drain_queue(redis: Redis) -> Queue:
    """Return the queue that workers listen on."""
    return Queue(QUEUE_NAME, connection=redis, serializer=JSONSerializer, job_class=DrainJob)


def enqueue_drain(queue: Queue, partition: int, token: str) -> None:
    """Enqueue a drain of `partition` for the holder of `token`. Losing it loses nothing, running it twice neither."""
    _enqueue(queue, DRAIN, partition, token, description=f"drain partition {partition}")


def enqueue_verify(queue: Queue) -> None:
    """Enqueue a while of verifying; losing it loses nothing, as there will be another."""
    _enqueue(queue, VERIFY, job_id=f"{_VERIFY_ID}{uuid4().hex}", description="verify for a while")


def is_verify_job(job_id: str) -> bool:
    """Return whether it is the id of such a job."""
    return job_id.startswith(_VERIFY_ID)


def _enqueue(queue: Queue, function: str, *arguments: str | int, description: str, job_id: str | None = None) -> None:
    with queue.connection.pipeline() as pipe:  # without, RQ makes two round trips
        queue.enqueue(
            function,
            *arguments,
            job_timeout=JOB_TIMEOUT_S,
            result_ttl=0,
            failure_ttl=FAILURE_TTL_S,
            description=description,
            job_id=job_id,
            pipeline=pipe,
        )
        pipe.execute()
