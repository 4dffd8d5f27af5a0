"""A partition that cannot be applied, while others can: nothing of it is trimmed or lost, and everybody is told."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from event_stream.event_types import partition_of
from tests.support.driving import append, checkpoints
from tests.support.events import TENANT, event, mixed
from tests.support.law import assert_all_is_well
from tests.support.processes import Start
from tests.support.scraping import Scraped
from tests.support.servers import free_port, wait_until
from workers.jobs.queue import QUEUE_NAME
from workers.reporting import status
from workers.reporting.status import read_status
from workers.runtime import Runtime

PARTITIONS = 4
HOME = partition_of(TENANT, PARTITIONS)
QUEUE_MAX = 2 * PARTITIONS + 1
NODE = 100  # Redis trims whole nodes of a stream
# A minute of waiting in a few seconds: when entries are trimmed, when a partition counts as stalled, when to try again.
STALLED_AFTER_S = 3.0
CONSTANTS = {
    "workers.dispatch.trimmer.TRIM_BEHIND_S": 0.5,
    "workers.dispatch.trimmer.TRIM_EVERY_S": 0.1,
    "workers.telemetry.progress.STALLED_AFTER_S": STALLED_AFTER_S,
    "workers.reporting.status.STALLED_AFTER_S": STALLED_AFTER_S,
    "workers.drain.batch_size.BACK_OFF_MAX_S": 1.0,
}
ROUNDS, EACH = 3, 600
# In one stream 60 MB, which would be twice that, and more, in the memory of whoever held them all. A batch is at most
# 8 MiB, but for the first after smaller entries, and two are held at once.
LARGE = 1_500
LARGE_BYTES = 40_000
MEMORY_MIB = 90
_HOLD = """
WITH held AS MATERIALIZED (SELECT * FROM checkpoint WHERE partition = %s FOR UPDATE)
SELECT pg_sleep(3600) FROM held
"""
_WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))
"""


@dataclass
class Holder:
    """A foreign session that holds a partition's claim and is busy, so that nobody may end it."""

    connection: psycopg.Connection
    observer: psycopg.Connection

    def is_waited_for(self) -> bool:
        """Return whether somebody waits for what it holds, by PostgreSQL's own word."""
        row = self.observer.execute(_WAITING, [self.connection.info.backend_pid]).fetchone()
        return row is not None and row[0] > 0


@contextmanager
def holding(database_url: str, partition: int) -> Iterator[Holder]:
    """Let a foreign session hold a partition's claim within this block."""
    url = database_url.replace("+psycopg", "")
    with psycopg.connect(url) as connection, psycopg.connect(url, autocommit=True) as observer:

        def hold() -> None:
            with suppress(psycopg.errors.QueryCanceled):
                connection.execute(_HOLD, [partition])

        thread = threading.Thread(target=hold)
        thread.start()
        try:
            yield Holder(connection, observer)
        finally:
            connection.cancel()
            thread.join()
            connection.rollback()


@dataclass
class Watched:
    """A deployment at work, and what was ever seen of it."""

    runtime: Runtime
    url: str
    workers: list[psutil.Process]
    queued_max: int = 0

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
        def holds() -> bool:
            self.queued_max = max(self.queued_max, self.runtime.stream.redis.llen(f"rq:queue:{QUEUE_NAME}"))
            return condition()

        wait_until(holds, what, timeout_s)

    def lengths(self) -> list[int]:
        return [end.length for end in self.runtime.stream.ends()]

    def is_drained(self, *but: int) -> bool:
        ends = zip(checkpoints(self.runtime), self.runtime.stream.ends(), strict=True)
        return all(at.partition in but or end.position in (None, at.position) for at, end in ends)

    def is_trimmed(self, *but: int) -> bool:
        return all(partition in but or length <= NODE + 1 for partition, length in enumerate(self.lengths()))

    def health(self) -> tuple[int, list[str]]:
        answer = httpx.get(f"{self.url}/healthz/projector", timeout=30)
        return answer.status_code, answer.json().get("problems", [])

    def stalled(self) -> set[int]:
        """Return the partitions that health is failing for, by its own words."""
        code, problems = self.health()
        found = [re.match(r"partition (\d+) (?:is stalled|failed)", problem) for problem in problems]
        return {int(each[1]) for each in found if each} if code == 503 and all(found) else set()

    def scraped(self) -> Scraped:
        return Scraped.of(httpx.get(f"{self.url}/metrics", timeout=30).text)

    def memory_mib(self) -> float:
        return max(worker.memory_info().rss for worker in self.workers) / 2**20


@pytest.fixture
def watched(runtime: Runtime, start: Start, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(status, "STALLED_AFTER_S", STALLED_AFTER_S)  # for `read_status` in this process
    port = free_port()
    constants = json.dumps(CONSTANTS)
    workers = [start("tests.support.hurried", "worker", constants) for _ in range(2)]
    start("tests.support.hurried", "dispatcher", constants)
    start("tests.support.hurried", "api", constants, PORT=str(port))
    made = Watched(runtime, f"http://127.0.0.1:{port}", [psutil.Process(each.pid) for each in workers])
    made.until(lambda: _is_well(made), "all is well")
    return made


def _is_well(watched: Watched) -> bool:
    with suppress(httpx.TransportError):
        return watched.health() == (200, [])
    return False


def of_every_partition(count: int, seed: int) -> list[dict[str, Any]]:
    """Return events of all types, as many of each partition."""
    tenants = [TENANT, *(f"t{number}" for number in range(20))]
    homes = [next(t for t in tenants if partition_of(t, PARTITIONS) == p) for p in range(PARTITIONS)]
    homes[HOME] = TENANT
    made = mixed(count, tenants=1, projects=3, seed=seed)
    return [each | {"tenantid": homes[number % PARTITIONS]} for number, each in enumerate(made)]


@pytest.mark.fleet
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_partition_whose_claim_is_held_keeps_all_its_entries_is_told_and_drains_once_it_is_free(
    watched: Watched, database_url: str
) -> None:
    runtime = watched.runtime
    made = list(of_every_partition(EACH, seed=1))
    append(runtime, *made)
    watched.until(lambda: watched.is_drained() and watched.is_trimmed(), "what came before is applied and trimmed")
    memory_mib = watched.memory_mib()
    with holding(database_url, HOME) as holder:
        stuck_at = checkpoints(runtime)[HOME]
        made += large_events()
        append(runtime, *made[-LARGE:])
        for number in range(ROUNDS):
            made += of_every_partition(EACH, seed=2 + number)
            append(runtime, *made[-EACH:])
            watched.until(lambda: watched.is_drained(HOME), "the others are drained")
        waiting = LARGE + ROUNDS * EACH // PARTITIONS
        watched.until(lambda: watched.is_trimmed(HOME), "the others are trimmed")
        assert unread(runtime) == waiting
        watched.until(holder.is_waited_for, "a drain waits for the claim")
        watched.until(lambda: watched.stalled() == {HOME}, "health names the partition, and no other")
        watched.until(lambda: read_status(runtime).partitions[HOME].failure is not None, "a drain gives up")
        assert checkpoints(runtime)[HOME] == stuck_at
        assert_told(watched, waiting)
        assert watched.memory_mib() - memory_mib < MEMORY_MIB
        assert watched.queued_max <= QUEUE_MAX
    watched.until(watched.is_drained, "it drains by itself")
    watched.until(lambda: watched.is_trimmed() and _is_well(watched), "it is trimmed, and all is well")
    assert watched.queued_max <= QUEUE_MAX
    assert_all_is_well(runtime, made)


def assert_told(watched: Watched, waiting: int) -> None:
    """Assert that status and metrics say which partition is stuck, and that nothing is lost."""
    home = read_status(watched.runtime).partitions[HOME]
    assert (home.stalled, home.lag_entries, home.in_flight, home.lost) == (True, waiting, waiting, 0)
    assert home.failure is not None
    assert home.failure.kind == "LockNotAvailable"
    told = watched.scraped()
    for partition in range(PARTITIONS):
        is_stuck = partition == HOME
        assert told("projector_partition_stalled", partition=str(partition)) == is_stuck
        assert told("projector_lag_entries", partition=str(partition)) == waiting * is_stuck
        assert told("projector_entries_lost_total", partition=str(partition)) == 0
    assert told("projector_partition_consecutive_failures", partition=str(HOME)) > 0


def unread(runtime: Runtime) -> int:
    """Return how many entries that nobody has applied the stream still holds."""
    at = checkpoints(runtime)[HOME].position
    return len(runtime.stream.read_from(HOME, at, 10**6).after(at, 10**6).entries)


def large_events() -> list[dict[str, Any]]:
    return [event(note="x" * LARGE_BYTES) for _ in range(LARGE)]
