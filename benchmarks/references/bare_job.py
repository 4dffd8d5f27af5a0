"""bare-job: the time from enqueueing an empty RQ job to its start, on an idle SimpleWorker.

`python -m benchmarks.references.bare_job <redis>` is the worker.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from benchmarks.sandbox import Sandbox
from benchmarks.subprocesses import BenchmarkError
from tests.support.servers import wait_until

QUEUE = "bare-job"
STARTED = "bare-job:started"


@contextmanager
def worker(sandbox: Sandbox) -> Iterator[Queue]:
    """Run an idle worker. Yields its queue."""
    queue = Queue(QUEUE, connection=sandbox.client, serializer=JSONSerializer)
    with sandbox.process("benchmarks.references.bare_job", sandbox.redis.url):
        wait_until(lambda: sandbox.client.scard(f"rq:workers:{QUEUE}") == 1, "the bare worker is ready")
        yield queue


def wait_s(sandbox: Sandbox, queue: Queue) -> float:
    """Enqueue a job, and return the seconds until its start is observed."""
    client: Any = sandbox.client
    began = time.perf_counter()
    queue.enqueue(start, sandbox.redis.url, result_ttl=0)
    if client.blpop(STARTED, timeout=30) is None:
        raise BenchmarkError(f"the bare job did not start\n{sandbox.log_tail()}")
    return time.perf_counter() - began


def start(redis_url: str) -> None:
    """Report the start of the job. This is the job's function."""
    _client(redis_url).rpush(STARTED, "")


@cache
def _client(redis_url: str) -> Redis:
    return Redis.from_url(redis_url)


def main(redis_url: str) -> None:
    logging.disable(logging.WARNING)
    redis = Redis.from_url(redis_url)
    SimpleWorker([QUEUE], connection=redis, serializer=JSONSerializer).work(logging_level="ERROR")


if __name__ == "__main__":
    main(sys.argv[1])
