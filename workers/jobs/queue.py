"""The RQ queue and its two kinds of jobs: "drain partition p" and "verify for a while".

Jobs carry no events: docs/decisions/0003-jobs-carry-no-events.md
"""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import structlog
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import DequeueTimeout
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.serializers import JSONSerializer

from workers.errors import WorkersError

QUEUE_NAME = "projector"
DRAIN = "workers.drain.drainer.drain_partition"
VERIFY = "workers.maintenance.verify_jobs.run_verify_job"
ALLOWED = (DRAIN, VERIFY)
JOB_TIMEOUT_S = 60
FAILURE_TTL_S = 3600
DRAIN_ID = "drain-"
VERIFY_ID = "verify-"

log = structlog.get_logger()


class ForbiddenJobError(WorkersError):
    """A job names a function that this queue does not run; the job fails."""


class DrainJob(Job):
    """A job that can only drain and verify.

    RQ imports and calls any function that a job names. Here the function must be in an allow-list, and callbacks and
    webhooks are dropped, so that a user with access to Redis cannot run code:
    docs/decisions/0012-json-jobs-with-an-allow-list.md
    """

    def restore(self, raw_data: Mapping[Any, Any]) -> None:
        """Load the job from its hash, without callbacks and webhooks."""
        super().restore(raw_data)
        self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None
        self.webhooks = []

    @property
    def func(self) -> Any:
        """The function to call; raises ForbiddenJobError if it is not in the allow-list."""
        if self.func_name not in ALLOWED or self.instance is not None:
            only = ", ".join(ALLOWED)
            raise ForbiddenJobError(f"job {self.id} names {self.func_name!r}; only {only} run on this queue")
        return super().func


class DrainQueue(Queue):
    """A queue from which a worker takes jobs, and skips ids without a readable job."""

    @classmethod
    def _fetch_dequeued_job(
        cls, connection: Redis, queue_key: str, job_id: str, *args: Any, **kwargs: Any
    ) -> tuple[Job, Queue]:
        """Return the job with an id; raises DequeueTimeout if there is none.

        RQ would take the next id without a heartbeat in between, and end the worker at a job that it cannot read.
        """
        found: tuple[Job, Queue] | None = None
        try:
            found = super()._fetch_dequeued_job(connection, queue_key, job_id, *args, **kwargs)
        except RedisError:
            raise
        except Exception as error:  # whatever RQ raises for a hash that another program wrote
            log.warning("queue.unreadable_job", job=job_id, error=type(error).__name__)
        if found is None:
            connection.lrem(IntermediateQueue.get_intermediate_queue_key(queue_key), 1, job_id)
            raise DequeueTimeout(0, queue_key)
        return found


def drain_queue(redis: Redis) -> DrainQueue:
    """Return the queue that workers listen on."""
    return DrainQueue(QUEUE_NAME, connection=redis, serializer=JSONSerializer, job_class=DrainJob)


def enqueue_drain(queue: Queue, partition: int, token: str) -> None:
    """Enqueue a drain of a partition for the lease with this token; it is harmless if the job is lost or runs twice."""
    _enqueue(queue, DRAIN, partition, token, prefix=DRAIN_ID, description=f"drain partition {partition}")


def enqueue_verify(queue: Queue) -> None:
    """Enqueue a slice of verification; it is harmless if the job is lost, because another one follows."""
    _enqueue(queue, VERIFY, prefix=VERIFY_ID, description="verify for a while")


def is_verify_job(job_id: str) -> bool:
    """Return whether an id belongs to a verification job."""
    return job_id.startswith(VERIFY_ID)


def _enqueue(queue: Queue, function: str, *arguments: str | int, prefix: str, description: str) -> None:
    with queue.connection.pipeline() as pipe:  # one round trip; without a pipeline RQ makes two
        queue.enqueue(
            function,
            *arguments,
            job_timeout=JOB_TIMEOUT_S,
            result_ttl=0,
            failure_ttl=FAILURE_TTL_S,
            description=description,
            job_id=f"{prefix}{uuid4().hex}",
            pipeline=pipe,
        )
        pipe.execute()
