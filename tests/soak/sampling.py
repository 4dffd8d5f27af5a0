"""Takes samples: everything that could grow, observed from outside."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import psutil
import psycopg
from rq.registry import (
    BaseRegistry,
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)

from event_stream.streams.stream_keys import stream_key
from projections.database.columns import metadata
from tests.soak.deployment import DATABASE, OWN_NAME, SoakDeployment
from tests.soak.plan import PARTITIONS
from tests.soak.redis_keys import RQ_KEYS, KeyPatterns, documented
from workers.jobs.queue import QUEUE_NAME
from workers.maintenance import verify_results

MIB = 2**20
LATE_MAX_S = 60.0
REGISTRIES: Mapping[str, type[BaseRegistry]] = {
    "started": StartedJobRegistry,
    "finished": FinishedJobRegistry,
    "failed": FailedJobRegistry,
    "deferred": DeferredJobRegistry,
    "scheduled": ScheduledJobRegistry,
    "canceled": CanceledJobRegistry,
}
TABLES = sorted(metadata.tables)
# One statement, so that all counts belong to one snapshot.
_ROWS = (
    f"SELECT {', '.join(f'(SELECT count(*) FROM {table})' for table in TABLES)}, (SELECT sum(applied) FROM checkpoint)"
)
_CONNECTIONS = """
SELECT application_name, count(*) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND datname = %s AND application_name <> %s GROUP BY 1
"""
_UPDATES = """
SELECT relname, n_dead_tup, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
"""
Values = dict[str, float]


@dataclass
class Sampler:
    """Takes samples. A series is named `<quantity> of <process or store>`."""

    where: SoakDeployment
    processes: dict[str, psutil.Process] = field(init=False)
    unknown: set[str] = field(default_factory=set)
    passes: set[int] = field(default_factory=set)
    _patterns: KeyPatterns = field(init=False)

    def __post_init__(self) -> None:
        self.processes = {role: psutil.Process(each.pid) for role, each in self.where.processes.items()}
        self.redis = self.where.client()
        self.database = psycopg.connect(self.where.postgres.url(DATABASE), autocommit=True, application_name=OWN_NAME)
        self._patterns = KeyPatterns([*documented(), *RQ_KEYS])
        self._names = [*documented(), *RQ_KEYS]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.close()
        self.database.close()

    def take(self) -> Values:
        """Return the current value of every series."""
        return dict([*self._of_processes(), *self._of_redis(), *self._of_keys(), *self._of_rq(), *self._of_tables()])

    def updates(self) -> dict[str, dict[str, int]]:
        """Return for each table its dead rows, its updates, and its HOT updates, which change no index."""
        rows = self.database.execute(_UPDATES).fetchall()
        return {name: {"dead": dead, "updated": updated, "hot": hot} for name, dead, updated, hot in rows}

    def _of_processes(self) -> Iterator[tuple[str, float]]:
        for role, process in self.processes.items():
            with process.oneshot():
                yield f"memory of {role}", process.memory_info().rss / MIB
                yield f"threads of {role}", process.num_threads()
            yield f"open files of {role}", process.num_fds()

    def _of_redis(self) -> Iterator[tuple[str, float]]:
        redis: Any = self.redis
        yield "clients of Redis", sum(client["name"] != OWN_NAME for client in redis.client_list())
        yield "data of Redis", redis.info("memory")["used_memory_dataset"] / MIB
        lengths = [redis.xlen(stream_key(partition)) for partition in range(PARTITIONS)]
        yield "entries of all streams", sum(lengths)
        yield from ((f"entries of stream {partition}", length) for partition, length in enumerate(lengths))
        if at_ms := verify_results.read(redis).finished_ms:
            self.passes.add(at_ms)

    def _of_keys(self) -> Iterator[tuple[str, float]]:
        found = [key.decode() for key in self.redis.scan_iter(count=1000)]
        known = Counter(self._patterns.match(key) for key in found)
        self.unknown |= {key for key in found if self._patterns.match(key) is None}
        yield from ((f"keys of {name}", known[name]) for name in self._names)
        yield "undocumented keys", known[None]
        yield "keys of Redis", len(found)

    def _of_rq(self) -> Iterator[tuple[str, float]]:
        yield "jobs of the queue", self.where.runtime.queue.count
        for name, kind in REGISTRIES.items():
            yield f"jobs of {name}", self.redis.zcard(kind(QUEUE_NAME, self.redis).key)

    def _of_tables(self) -> Iterator[tuple[str, float]]:
        *counted, applied = self.database.execute(_ROWS.encode()).fetchall()[0]
        rows = dict(zip(TABLES, counted, strict=True))
        yield "rows of event_log beyond what was applied", rows["event_log"] - int(applied)
        yield from ((f"rows of {table}", rows[table]) for table in TABLES)
        connections: dict[str, int] = dict(self.database.execute(_CONNECTIONS, [DATABASE, OWN_NAME]).fetchall())
        yield from ((f"connections of {role}", connections.pop(role, 0)) for role in ("worker", "dispatcher", "api"))
        yield "connections of other clients", sum(connections.values())
        added = sum(end.added for end in self.where.runtime.stream.ends())
        with self.where.runtime.reader.connect() as connection:
            read = connection.exec_driver_sql("SELECT sum(read) FROM checkpoint").scalar_one()
        yield "entries of the backlog", max(0, added - int(read))


def sample_times(lasts_s: float, every_s: float, is_enough: Callable[[], bool]) -> Iterator[float]:
    """Wait for the time of each sample and yield it, in seconds from now, for `lasts_s`.

    On a machine that stalled it continues until `is_enough()`, for at most LATE_MAX_S longer.
    """
    began_s = time.monotonic()
    number = 0
    while (next_s := number * every_s) <= lasts_s + (0.0 if is_enough() else LATE_MAX_S):
        time.sleep(max(0.0, began_s + next_s - time.monotonic()))
        yield time.monotonic() - began_s
        number = max(number + 1, int((time.monotonic() - began_s) / every_s))
