"""bare-job: from enqueueing an RQ job that does nothing to its start, on an idle SimpleWorker.

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

from benchmarks.place import Place
from benchmarks.running import MeasureError
from tests.support.servers import wait_until

QUEUE = "bare-job"
STARTED = "bare-job:started"


@contextmanager
def worker(place: Place) -> Iterator[Queue]:
    """Run an idle worker; yields its queue."""
    queue = Queue(QUEUE, connection=place.client, serializer=JSONSerializer)
    with place.process("benchmarks.references.bare_job", place.redis.url):
        wait_until(lambda: place.client.scard(f"rq:workers:{QUEUE}") == 1, "the bare worker is ready")
        yield queue


def wait_s(place: Place, queue: Queue) -> float:
    """Return the seconds from before a job is enqueued until it is known to have started."""
    client: Any = place.client
    began = time.perf_counter()
    queue.enqueue(start, place.redis.url, result_ttl=0)
    if client.blpop(STARTED, timeout=30) is None:
        raise MeasureError(f"the bare job did not start\n{place.said()}")
    return time.perf_counter() - began


def start(redis_url: str) -> None:
    """Say that we have started: the job."""
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
