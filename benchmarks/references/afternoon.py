"""afternoon: a simple hand-written projector, with a consumer group and 1,000 events per transaction.

It validates nothing, keeps no log, and counts a repeated event twice.
`python -m benchmarks.references.afternoon <redis> <events>` prints its events per second.
"""

import json
import os
import sys
import time
from collections import defaultdict
from typing import Any

import psycopg
from redis import Redis

from benchmarks.references.naive_tables import SCHEMA, statement
from benchmarks.row import Figures, Measurement
from benchmarks.sandbox import Sandbox
from benchmarks.subprocesses import run_module
from benchmarks.workloads import PARTITIONS, BacklogEntry
from event_stream.streams.stream_keys import stream_key

BATCH = 1_000
GROUP = "afternoon"


def afternoon(sandbox: Sandbox, backlog: list[BacklogEntry]) -> Measurement:
    """Return its measurement, in a process of its own, on an empty PostgreSQL database."""

    def measure() -> Figures:
        sandbox.load_backlog(backlog)
        with sandbox.database() as url:
            return run_module("benchmarks.references.afternoon", sandbox.redis.url, len(backlog), DATABASE_URL=url)

    return measure


def main(redis_url: str, events: int) -> None:
    """Project everything in the streams and print the events per second."""
    redis: Any = Redis.from_url(redis_url, protocol=2)
    keys = [stream_key(partition) for partition in range(PARTITIONS)]
    existing = [key for key in keys if redis.exists(key)]
    for key in existing:
        redis.xgroup_create(key, GROUP, id="0")
    try:
        with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
            connection.execute(SCHEMA)
            connection.commit()
            started = time.perf_counter()
            done = sum(_project(redis, connection, key) for key in existing)
            took_s = time.perf_counter() - started
    finally:
        for key in existing:
            redis.xgroup_destroy(key, GROUP)
    if done != events:
        raise SystemExit(f"{done} events were read, not {events}")
    print(json.dumps({"events/s": events / took_s}))


def _project(redis: Any, connection: psycopg.Connection, key: str) -> int:
    done = 0
    while reply := redis.xreadgroup(GROUP, "only", {key: ">"}, count=BATCH):
        entries = reply[0][1]
        values_by_query: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for _, fields in entries:
            query, values = statement(json.loads(fields[b"event"]), json.dumps)
            values_by_query[query].append(values)
        with connection.cursor() as cursor:
            for query, many in values_by_query.items():
                cursor.executemany(query.encode(), many)
        connection.commit()
        redis.xack(key, GROUP, *(entry_id for entry_id, _ in entries))
        done += len(entries)
    return done


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
