"""One partition cannot be applied while others can: none of its entries is trimmed or lost, and it is reported."""

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

from event_stream.events.event import partition_of
from tests.support.events import TENANT, event, mixed
from tests.support.harness import append, checkpoints
from tests.support.invariants import assert_fully_projected
from tests.support.metrics_scrape import Scraped
from tests.support.processes import Start
from tests.support.servers import free_port, wait_until
from workers.jobs.queue import QUEUE_NAME
from workers.reporting import status_reader
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime

PARTITIONS = 4
TENANT_PARTITION = partition_of(TENANT, PARTITIONS)
QUEUE_MAX = 2 * PARTITIONS + 1
NODE = 100  # Redis trims whole nodes of a stream
# A minute of waiting in a few seconds: when entries are trimmed, when a partition counts as stalled, when to try again.
STALLED_AFTER_S = 3.0
CONSTANTS = {
    "workers.dispatch.trimmer.TRIM_AFTER_S": 0.5,
    "workers.dispatch.trimmer.TRIM_EVERY_S": 0.1,
    "workers.telemetry.progress.STALLED_AFTER_S": STALLED_AFTER_S,
    "workers.reporting.status_reader.STALLED_AFTER_S": STALLED_AFTER_S,
    "workers.drain.batch_size.BACK_OFF_MAX_S": 1.0,
}
ROUNDS, EACH = 3, 600
# In one stream 60 MB, which would be twice that, and more, in the memory of a process that loaded them all. A batch is at most
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
    """A foreign session that holds a partition's claim and is busy, so that drains may not end it."""

    connection: psycopg.Connection
    observer: psycopg.Connection

    def is_waited_for(self) -> bool:
        """Whether PostgreSQL reports that a session waits for its lock."""
        row = self.observer.execute(_WAITING, [self.connection.info.backend_pid]).fetchone()
        return row is not None and row[0] > 0


@contextmanager
def holding(database_url: str, partition: int) -> Iterator[Holder]:
    """A foreign session holds a partition's claim within this block."""
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
    """A running deployment, and everything observed of it."""

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
        """Return the partitions that health names as stalled."""
        code, problems = self.health()
        found = [re.match(r"partition (\d+) (?:is stalled|failed)", problem) for problem in problems]
        return {int(each[1]) for each in found if each} if code == 503 and all(found) else set()

    def scraped(self) -> Scraped:
        return Scraped.of(httpx.get(f"{self.url}/metrics", timeout=30).text)

    def memory_mib(self) -> float:
        return max(worker.memory_info().rss for worker in self.workers) / 2**20


@pytest.fixture
def watched(runtime: Runtime, start: Start, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(status_reader, "STALLED_AFTER_S", STALLED_AFTER_S)  # for `read_status` in this process
    port = free_port()
    constants = json.dumps(CONSTANTS)
    workers = [start("tests.support.override_constants", "worker", constants) for _ in range(2)]
    start("tests.support.override_constants", "dispatcher", constants)
    start("tests.support.override_constants", "api", constants, PORT=str(port))
    made = Watched(runtime, f"http://127.0.0.1:{port}", [psutil.Process(each.pid) for each in workers])
    made.until(lambda: _is_well(made), "everything is healthy")
    return made


def _is_well(watched: Watched) -> bool:
    with suppress(httpx.TransportError):
        return watched.health() == (200, [])
    return False


def of_every_partition(count: int, seed: int) -> list[dict[str, Any]]:
    """Return events of all types, the same number for each partition."""
    tenants = [TENANT, *(f"t{number}" for number in range(20))]
    owners = [next(t for t in tenants if partition_of(t, PARTITIONS) == p) for p in range(PARTITIONS)]
    owners[TENANT_PARTITION] = TENANT
    made = mixed(count, tenants=1, projects=3, seed=seed)
    return [each | {"tenantid": owners[number % PARTITIONS]} for number, each in enumerate(made)]


@pytest.mark.fleet
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_partition_whose_claim_is_held_keeps_all_entries_is_reported_and_drains_once_the_claim_is_free(
    watched: Watched, database_url: str
) -> None:
    runtime = watched.runtime
    made = list(of_every_partition(EACH, seed=1))
    append(runtime, *made)
    watched.until(lambda: watched.is_drained() and watched.is_trimmed(), "what came before is applied and trimmed")
    memory_mib = watched.memory_mib()
    with holding(database_url, TENANT_PARTITION) as holder:
        stuck_at = checkpoints(runtime)[TENANT_PARTITION]
        made += large_events()
        append(runtime, *made[-LARGE:])
        for number in range(ROUNDS):
            made += of_every_partition(EACH, seed=2 + number)
            append(runtime, *made[-EACH:])
            watched.until(lambda: watched.is_drained(TENANT_PARTITION), "the others are drained")
        waiting = LARGE + ROUNDS * EACH // PARTITIONS
        watched.until(lambda: watched.is_trimmed(TENANT_PARTITION), "the others are trimmed")
        assert unread(runtime) == waiting
        watched.until(holder.is_waited_for, "a drain waits for the claim")
        watched.until(lambda: watched.stalled() == {TENANT_PARTITION}, "health names the partition, and no other")
        watched.until(lambda: read_status(runtime).partitions[TENANT_PARTITION].failure is not None, "a drain gives up")
        assert checkpoints(runtime)[TENANT_PARTITION] == stuck_at
        assert_reported(watched, waiting)
        assert watched.memory_mib() - memory_mib < MEMORY_MIB
        assert watched.queued_max <= QUEUE_MAX
    watched.until(watched.is_drained, "it drains by itself")
    watched.until(lambda: watched.is_trimmed() and _is_well(watched), "it is trimmed, and all is well")
    assert watched.queued_max <= QUEUE_MAX
    assert_fully_projected(runtime, made)


def assert_reported(watched: Watched, waiting: int) -> None:
    """Assert that status and metrics say which partition is stuck, and that nothing is lost."""
    owner = read_status(watched.runtime).partitions[TENANT_PARTITION]
    assert (owner.stalled, owner.lag_entries, owner.in_flight, owner.lost) == (True, waiting, waiting, 0)
    assert owner.failure is not None
    assert owner.failure.kind == "LockNotAvailable"
    scraped = watched.scraped()
    for partition in range(PARTITIONS):
        is_stuck = partition == TENANT_PARTITION
        assert scraped("projector_partition_stalled", partition=str(partition)) == is_stuck
        assert scraped("projector_lag_entries", partition=str(partition)) == waiting * is_stuck
        assert scraped("projector_entries_lost_total", partition=str(partition)) == 0
    assert scraped("projector_partition_consecutive_failures", partition=str(TENANT_PARTITION)) > 0


def unread(runtime: Runtime) -> int:
    """Return how many unapplied entries the stream still contains."""
    at = checkpoints(runtime)[TENANT_PARTITION].position
    return len(runtime.stream.read_after(TENANT_PARTITION, at, 10**6, bytes_max=10**9).entries)


def large_events() -> list[dict[str, Any]]:
    return [event(note="x" * LARGE_BYTES) for _ in range(LARGE)]
