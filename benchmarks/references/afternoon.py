"""afternoon: the loop that somebody writes in an afternoon. A consumer group, 1,000 events a transaction, no log.

`python -m benchmarks.references.afternoon <redis> <events>` prints its events per second. It validates nothing, and
counts an event again that comes again.
"""

import json
import os
import sys
import time
from collections import defaultdict
from typing import Any

import psycopg
from redis import Redis

from benchmarks.mixes import PARTITIONS, Entry
from benchmarks.place import Place
from benchmarks.references.naive_tables import SCHEMA, statement
from benchmarks.row import Figures, Measure
from benchmarks.running import figures_of
from event_stream.stream import stream_key

BATCH = 1_000
GROUP = "afternoon"


def afternoon(place: Place, backlog: list[Entry]) -> Measure:
    """Measure it, in a process of its own, on a PostgreSQL that is empty."""

    def measure() -> Figures:
        place.let_wait(backlog)
        with place.database() as url:
            return figures_of("benchmarks.references.afternoon", place.redis.url, len(backlog), DATABASE_URL=url)

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
    while answer := redis.xreadgroup(GROUP, "only", {key: ">"}, count=BATCH):
        entries = answer[0][1]
        together: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for _, fields in entries:
            query, values = statement(json.loads(fields[b"event"]), json.dumps)
            together[query].append(values)
        with connection.cursor() as cursor:
            for query, many in together.items():
                cursor.executemany(query.encode(), many)
        connection.commit()
        redis.xack(key, GROUP, *(entry_id for entry_id, _ in entries))
        done += len(entries)
    return done


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
