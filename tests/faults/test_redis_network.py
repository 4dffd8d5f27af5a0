"""The network to Redis is cut at any request, slow, or silent: each event counts once."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from event_stream import Producer
from event_stream.events.event import partition_of
from event_stream.settings import StreamSettings
from event_stream.streams.stream import ProjectedPosition, Stream
from event_stream.streams.stream_keys import stream_key
from tests.support.events import TENANT, event
from tests.support.harness import append, checkpoints
from tests.support.invariants import CheckpointObserver, assert_counted_once, assert_counters_add_up
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, wait_until
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import create_worker
from workers.drain.drainer import Drainer, run
from workers.jobs import lease
from workers.jobs.lease import Lease
from workers.jobs.queue import drain_queue
from workers.runtime import Runtime, redis_client

TENANT_PARTITION = partition_of(TENANT, 4)
SETTINGS = StreamSettings(partitions=4)
on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def proxy(redis_server: RedisServer, redis_url: str) -> Iterator[Proxy]:
    made = Proxy(redis_server.port)
    yield made
    made.close()


@pytest.fixture
def proxied(runtime: Runtime, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """A runtime that sends every Redis command through the proxy."""
    clients = [redis_client(url_of(proxy)) for _ in range(2)]
    made = replace(runtime, stream=Stream(clients[0], 4), queue=drain_queue(clients[1]))
    monkeypatch.setattr("workers.drain.drainer.process_runtime", lambda: made)
    yield made
    for client in clients:
        client.close()


def url_of(proxy: Proxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"


def cut(proxy: Proxy, when: str, pattern: bytes) -> None:
    {"before": proxy.cut_before, "after": proxy.cut_after}[when](pattern)


# --- cut at a request ------------------------------------------------------------------------------------------------


@on_one_database
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_producer_disconnected_during_a_pipeline_may_send_it_again(runtime: Runtime, proxy: Proxy, when: str) -> None:
    producer = Producer.from_url(url_of(proxy), SETTINGS)
    marked = event("watchdog.evaluated.v1", {"summary": "cut here " * 100})
    events = [*(event() for _ in range(400)), marked, *(event() for _ in range(400))]
    cut(proxy, when, b"cut here ")
    while True:
        try:
            producer.append_many(events)
            break
        except RedisConnectionError:
            continue
    assert proxy.happened == 1
    added = runtime.stream.ends()[TENANT_PARTITION].added
    assert added > len(events)  # entries that arrived before the cut are there twice
    CheckpointObserver(runtime).drain()
    assert_counted_once(runtime, events)
    assert_counters_add_up(runtime)
    assert checkpoints(runtime)[TENANT_PARTITION].duplicates == added - len(events)
    producer._stream.redis.close()


@on_one_database
def test_a_producer_whose_response_is_lost_sends_again_and_the_event_counts_once(
    runtime: Runtime, proxy: Proxy
) -> None:
    producer = Producer.from_url(url_of(proxy), SETTINGS)
    first, second = event(), event()
    producer.append(first)
    proxy.cut_after(b"XADD")
    producer.append(second)
    assert proxy.happened == 1
    assert runtime.stream.redis.xlen(stream_key(TENANT_PARTITION)) == 3
    CheckpointObserver(runtime).drain()
    assert_counted_once(runtime, [first, second])
    assert_counters_add_up(runtime)
    producer._stream.redis.close()


# One of each kind of request, in the order in which they are made: the greeting of a new connection; the dispatcher's
# look, its lease, its job, its sign of life; the worker's wait for a job, and what it notes about it; the drain's
# renewal of the lease, its reading, its hint after the commit.
REQUESTS = [
    *(b"SETINFO", b"EVALSHA_RO", b"projector:drain-lease:", b"RPUSH", b"projector:dispatcher-heartbeats"),
    *(b"LMOVE", b"rq:job", b"EVALSHA\r\n", b"XRANGE", b"MSET"),
]


@on_one_database
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_", REQUESTS)
def test_each_event_counts_once_whichever_request_is_interrupted(
    runtime: Runtime, proxied: Runtime, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, request_: bytes, when: str
) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 1.0)  # a lease or a job that is lost with a response delays the next by this
    events = [event(note="x" * 2_000) for _ in range(50)]  # more bytes than a script returns
    append(runtime, *events)
    observer = CheckpointObserver(runtime)
    cut(proxy, when, request_)

    def go_on() -> bool:
        Dispatcher(proxied).sweep()
        create_worker(proxied).work(burst=True, logging_level="CRITICAL")
        observer.observe()
        return checkpoints(runtime)[TENANT_PARTITION].applied == len(events)

    wait_until(go_on, "everything is projected")
    assert proxy.happened == 1
    observer.drain()
    Dispatcher(runtime).sweep()
    at = checkpoints(runtime)[TENANT_PARTITION]
    assert runtime.stream.projected([TENANT_PARTITION])[TENANT_PARTITION] == ProjectedPosition(
        at.position, at.entries_added()
    )
    assert_counted_once(runtime, events)
    assert_counters_add_up(runtime)
    assert at.duplicates == 0


# --- slow ------------------------------------------------------------------------------------------------------------


@on_one_database
def test_a_drain_makes_progress_though_each_response_takes_longer_than_its_budget(
    runtime: Runtime, proxied: Runtime, proxy: Proxy
) -> None:
    events = [event() for _ in range(100)]
    append(runtime, *events)
    proxy.latency_s = 0.1
    started = time.monotonic()
    assert proxied.stream.redis.ping()
    assert time.monotonic() - started >= 0.2
    drainer = Drainer(proxied, TENANT_PARTITION)
    for applied in (1, 65, 100):
        run(drainer, Lease(proxied.queue.connection, TENANT_PARTITION), budget_s=0.1)
        assert checkpoints(runtime)[TENANT_PARTITION].applied == applied
    assert_counted_once(runtime, events)


@on_one_database
def test_a_large_batch_crosses_a_narrow_link_once_though_it_takes_longer_than_the_sockets_timeout(
    runtime: Runtime, proxy: Proxy
) -> None:
    bodies = [(TENANT_PARTITION, b"x" * 60_000)] * 400
    proxy.bytes_per_s = 4e6
    client = redis_client(url_of(proxy), timeout_s=4.0, retries=0)
    started_s = time.monotonic()
    assert len(Stream(client, 4).append(bodies)) == len(bodies)
    assert time.monotonic() - started_s > 5.0
    client.close()
    assert runtime.stream.ends()[TENANT_PARTITION].added == len(bodies)
