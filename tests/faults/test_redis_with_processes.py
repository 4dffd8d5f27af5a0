"""A running deployment through all faults of Redis: reads continue, and everything is projected automatically.

All tests share one deployment. Each leaves it drained, with answers equal to the oracle's.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from redis import Redis
from redis.exceptions import BusyLoadingError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from event_stream import Producer
from event_stream.settings import StreamSettings
from event_stream.streams.stream import ProjectedPosition
from projections.transaction.checkpoint import Checkpoint
from tests.support.api_client import Api, assert_answers_equal
from tests.support.deployment import Deployment
from tests.support.events import mixed
from tests.support.harness import append, checkpoints
from tests.support.invariants import CheckpointObserver, assert_counted_once, assert_counters_add_up
from tests.support.oracle import Oracle
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, wait_until
from workers.dispatch.rq_worker import WORKER_TTL_S
from workers.drain.drainer import needs_drain
from workers.reporting import problems
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime

SETTINGS = StreamSettings(partitions=4)
SETTLED_WITHIN_S = 120.0
# RQ gives up on a silent Redis 5 s before the worker's TTL expires; every other client and the lease do so earlier.
LONGER_THAN_EVERY_TIMEOUT_S = WORKER_TTL_S - 4.0


# What Redis says, and not the command, which holds a piece of an event.
MESSAGES = {
    "LOADING": r"^\w+ is loading the dataset in memory",
    "READONLY": r"^You can't write against a read only replica",
    "OOM": r"^command not allowed when used memory > 'maxmemory'",
    "MISCONF": r"^MISCONF \w+ is configured to save RDB snapshots",
}


class Living:
    """A deployment behind a proxy, the events appended to it, and direct connections that bypass the proxy."""

    def __init__(self, directory: Path) -> None:
        self.server = new_server()
        self.server.start()
        self.proxy = Proxy(self.server.port)
        url = f"redis://127.0.0.1:{self.proxy.port}/0"
        self.up = Deployment(directory / "data", REDIS_URL=url, PROJECTOR_PARTITIONS="4")
        self.up.start()
        self.up.await_ready()
        self.database_url = self.up.variables()["DATABASE_URL"]
        self.producer = Producer.from_url(url, SETTINGS)
        self.runtime = self._look()
        self.observer = CheckpointObserver(self.runtime)
        self.events: list[dict[str, Any]] = []
        self.batches = (list(mixed(200, seed=seed)) for seed in range(1, 1000))
        self.keys: dict[str, str] = {}

    def _look(self) -> Runtime:
        return Runtime.from_environ(
            {"REDIS_URL": self.server.url, "DATABASE_URL": self.database_url, "PROJECTOR_PARTITIONS": "4"}
        )

    def produce(self) -> None:
        """Append new events like a producer that retries until it gets a response."""
        batch = next(self.batches)
        wait_until(lambda: self._appended(batch), "the producer gets its response")
        self.events += batch

    def _appended(self, batch: list[dict[str, Any]]) -> bool:
        try:
            self.producer.append_many(batch)
        except RedisError:
            return False
        return True

    def settle(self) -> None:
        """Wait until everything is projected, and check that each event counts once."""
        wait_until(self._is_settled, "everything is projected", SETTLED_WITHIN_S)
        assert_counted_once(self.runtime, self.events)
        assert_counters_add_up(self.runtime)

    def _is_settled(self) -> bool:
        self.observer.observe()
        at = checkpoints(self.runtime)
        ends = self.runtime.stream.ends()
        done = sum(each.applied for each in at) == len(self.events)
        return done and not any(needs_drain(*each) for each in zip(at, ends, strict=True))

    def assert_reads_go_on(self) -> None:
        """Request every answer from the running API, and compare it with the oracle's."""
        anyio.run(self._compare)

    async def _compare(self) -> None:
        oracle = Oracle()
        for each in self.events:
            oracle.add(each)
        self._make_keys({tenant for tenant, _ in oracle.projects()})
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.up.port}", timeout=30) as client:

            async def ask(tenant: str, path: str, headers: dict[str, str]) -> Any:
                response = await client.get(path, headers={"Authorization": f"Bearer {self.keys[tenant]}", **headers})
                if response.status_code == 404:
                    return None
                assert response.status_code == 200, response.text
                return response.json()["data"]

            assert await assert_answers_equal(oracle, ask, lambda: time.time_ns() // 1000) > 10

    def _make_keys(self, tenants: set[str]) -> None:
        api = Api(self.runtime.writer, self.runtime.reader)
        self.keys |= {tenant: api.key(tenant) for tenant in tenants - self.keys.keys()}
        api.close()

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints of the partitions with events."""
        return [at for at in checkpoints(self.runtime) if at.read]

    def epochs(self) -> list[int]:
        return [at.epoch for at in self.checkpoints()]

    def move_to(self, server: RedisServer) -> None:
        """Fail over: use this server from now on."""
        self._close_look()
        self.server = server
        self.runtime = self._look()
        self.observer.runtime = self.runtime

    def _close_look(self) -> None:
        self.runtime.stream.redis.close()
        self.runtime.queue.connection.close()
        self.runtime.writer.dispose()
        self.runtime.reader.dispose()

    def remove(self) -> None:
        self.up.remove()
        self._close_look()
        self.producer._stream.redis.close()
        self.proxy.close()
        self.server.remove()


def new_server(*options: str) -> RedisServer:
    return RedisServer("--repl-diskless-sync-delay", "0", *options)


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Living]:
    made = Living(tmp_path_factory.mktemp("living"))
    made.produce()
    made.settle()
    yield made
    made.remove()


def lives_through(
    living: Living, server: RedisServer, kind: str, refused: type[RedisError], recover: Callable[[], None]
) -> None:
    """Check that while a server refuses, the error is clear, all processes get it, and reads work without Redis.

    After the fault, everything continues by itself.
    """
    try:
        with pytest.raises(refused, match=MESSAGES[kind]):
            living.producer.append_many(next(living.batches))
        living.assert_reads_go_on()
        met = server.refusals(kind)
        wait_until(lambda: server.refusals(kind) > met + 3, "dispatcher and worker see the error too")
    finally:
        recover()
    living.produce()
    living.settle()


# --- it answers, but refuses -----------------------------------------------------------------------------------------


def test_a_redis_that_is_loading(living: Living) -> None:
    server = living.server
    server.command("DEBUG", "POPULATE", "20000", "filler", "100")
    server.command("BGREWRITEAOF")
    wait_until(
        lambda: not server.command("INFO", "persistence")["aof_rewrite_in_progress"], "the filler is in the base"
    )
    quick = server.options
    server.kill()
    server.options = (*quick, "--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024")
    server.launch()
    wait_until(lambda: is_loading(server), "Redis loads its data")

    def recover() -> None:
        server.kill()
        server.options = quick
        server.start()

    lives_through(living, server, "LOADING", BusyLoadingError, recover)


def is_loading(server: RedisServer) -> bool:
    try:
        return bool(server.command("INFO", "persistence")["loading"])
    except RedisError:
        return False


def test_clients_that_are_connected_to_a_replica(living: Living) -> None:
    replica = new_server()
    replica.start()
    replica.replicate(living.server.port)
    living.proxy.retarget(replica.port)
    living.proxy.cut()

    def recover() -> None:
        living.proxy.retarget(living.server.port)  # and the connections to the replica stay open

    lives_through(living, replica, "READONLY", ReadOnlyError, recover)
    replica.remove()


def test_a_full_redis(living: Living) -> None:
    server = living.server
    server.command("CONFIG", "SET", "maxmemory", "1")
    lives_through(living, server, "OOM", OutOfMemoryError, lambda: server.command("CONFIG", "SET", "maxmemory", "0"))


def test_a_redis_that_cannot_save(living: Living) -> None:
    server = living.server
    (server.directory / "dump.rdb" / "in the way").mkdir(parents=True)
    server.command("CONFIG", "SET", "save", "3600 1")
    server.command("BGSAVE")
    wait_until(lambda: server.command("INFO", "persistence")["rdb_last_bgsave_status"] == "err", "Redis cannot save")
    lives_through(living, server, "MISCONF", ResponseError, lambda: server.command("CONFIG", "SET", "save", ""))


# --- the network -----------------------------------------------------------------------------------------------------


def test_a_partition_longer_than_every_timeout(living: Living) -> None:
    living.proxy.partition()
    began = time.monotonic()
    living.assert_reads_go_on()
    before = checkpoints(living.runtime)
    batch = next(living.batches)
    append(living.runtime, *batch)
    wait_until(lambda: time.monotonic() - began > LONGER_THAN_EVERY_TIMEOUT_S, "the partition is long enough")
    assert checkpoints(living.runtime) == before
    living.proxy.heal()
    living.events += batch
    living.settle()


def test_two_seconds_of_latency(living: Living) -> None:
    living.proxy.latency_s = 2.0
    batch = next(living.batches)
    append(living.runtime, *batch)
    began = time.monotonic()
    with Redis(port=living.proxy.port, socket_timeout=60) as client:
        assert client.ping()
    assert time.monotonic() - began >= 4
    living.proxy.heal()
    living.events += batch
    living.settle()


def test_every_connection_cut_at_once_and_refused_for_a_while(living: Living) -> None:
    living.proxy.refuse()
    batch = next(living.batches)
    append(living.runtime, *batch)
    cut = living.proxy.happened
    assert cut >= 3
    with pytest.raises(RedisError):
        living.producer.append_many(batch)
    living.assert_reads_go_on()
    living.proxy.heal()
    living.events += batch
    living.settle()


# --- everything gone -------------------------------------------------------------------------------------------------


def test_a_flushed_redis(living: Living) -> None:
    """Flushed or evicted: streams, hints, leases, the queue, and registrations of workers."""
    assert living.runtime.stream.redis.dbsize() > 0
    epochs = living.epochs()
    living.server.command("FLUSHALL")
    assert_counters_add_up(living.runtime)
    living.produce()
    living.settle()
    assert living.epochs() == [epoch + 1 for epoch in epochs]
    wait_until(
        lambda: problems.errors(read_status(living.runtime)) == [], "both are registered again", SETTLED_WITHIN_S
    )
    assert living.runtime.stream.redis.get("events:partitions") == b"4"
    hints = living.runtime.stream.projected(range(4))
    for at in living.checkpoints():
        assert hints[at.partition] == ProjectedPosition(at.position, at.entries_added())


# --- failover --------------------------------------------------------------------------------------------------------


def test_a_failover_to_a_replica_that_lacks_the_tail(living: Living) -> None:
    primary, replica = living.server, new_server()
    replica.start()
    link = Proxy(primary.port)
    replica.replicate(link.port)
    link.partition()
    living.produce()
    living.settle()
    before = living.checkpoints()
    primary.kill()
    link.close()
    replica.promote()
    living.move_to(replica)
    ends = living.runtime.stream.ends()
    for at in before:
        end = ends[at.partition].position
        assert end is not None
        assert end < at.position
    living.proxy.retarget(replica.port)
    living.produce()
    living.settle()
    after = living.checkpoints()
    assert [at.epoch for at in after] == [at.epoch + 1 for at in before]
    assert [at.lost for at in after] == [at.lost for at in before]
    living.assert_reads_go_on()
    primary.remove()
