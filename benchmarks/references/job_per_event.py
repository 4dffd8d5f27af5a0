"""job-per-event: one RQ job for each event, with an upsert and a commit, as many projects do it.

`python -m benchmarks.references.job_per_event <redis> <jobs>` runs all queued jobs and prints its jobs per second.
"""

import json
import logging
import os
import sys
import time
from functools import cache
from typing import Any

import psycopg
from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from benchmarks.references.naive_tables import SCHEMA, statement
from benchmarks.row import Figures, Measurement
from benchmarks.sandbox import Sandbox
from benchmarks.subprocesses import run_module
from benchmarks.workloads import BacklogEntry

QUEUE = "job-per-event"


def job_per_event(sandbox: Sandbox, backlog: list[BacklogEntry]) -> Measurement:
    """Return its measurement on the first events of a backlog, in a process of its own, on an empty database."""
    events = [json.loads(raw) for _, raw in backlog[: sandbox.size.jobs]]

    def measure() -> Figures:
        queue = Queue(QUEUE, connection=sandbox.client, serializer=JSONSerializer)
        queue.enqueue_many(
            [
                Queue.prepare_data("benchmarks.references.job_per_event.project", (event,), result_ttl=0)
                for event in events
            ]
        )
        with sandbox.database() as url:
            with psycopg.connect(url) as connection:
                connection.execute(SCHEMA)
            return run_module("benchmarks.references.job_per_event", sandbox.redis.url, len(events), DATABASE_URL=url)

    return measure


def project(event: dict[str, Any]) -> None:
    """Apply one event. This is the job's function."""
    connection = _connection()
    query, values = statement(event, json.dumps)
    connection.execute(query.encode(), values)
    connection.commit()


@cache
def _connection() -> psycopg.Connection:
    return psycopg.connect(os.environ["DATABASE_URL"])


def main(redis_url: str, jobs: int) -> None:
    """Run all queued jobs and print the jobs per second."""
    redis = Redis.from_url(redis_url)
    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
    worker = SimpleWorker([queue], connection=redis, serializer=JSONSerializer)
    logging.disable(logging.WARNING)
    started = time.perf_counter()
    worker.work(burst=True, logging_level="ERROR")
    took_s = time.perf_counter() - started
    if queue.count or queue.failed_job_registry.count:
        raise SystemExit(f"{queue.failed_job_registry.count} of {jobs} jobs failed")
    print(json.dumps({"events/s": jobs / took_s}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
