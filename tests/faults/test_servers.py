"""Servers that stop, restart or are killed under a drain: nothing is lost, counted twice, or taken for poison."""

import threading
import time
from collections.abc import Callable

import pytest
from redis.exceptions import RedisError

from event_stream.types import partition_of
from tests.support.driving import append, checkpoints, drain_all, dump, letters
from tests.support.events import TENANT, event
from tests.support.servers import RedisServer
from workers.drain import Drainer, run
from workers.pace import Pace
from workers.queue import Lease
from workers.runtime import Runtime

HOME = partition_of(TENANT, 4)
EVENTS = 400


def drain_while(runtime: Runtime, fault: Callable[[], None], applied_at_least: int) -> int:
    """Drain in small batches, let a fault happen once some are applied, and go on until all are; returns failures."""
    failures = 0
    happened = threading.Event()
    drainer = Drainer(runtime, HOME, pace=Pace(count=1))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        drainer.pace.count = min(drainer.pace.count, 10)
        if drainer.at and drainer.at.applied >= applied_at_least and not happened.is_set():
            happened.set()
            fault()
        try:
            if drainer.step():
                assert happened.is_set()
                return failures
        except Exception:
            failures += 1
            assert happened.is_set()
            time.sleep(0.05)
    raise AssertionError("not drained in time")


def assert_each_counts_once(runtime: Runtime) -> None:
    at = checkpoints(runtime)[HOME]
    assert (at.read, at.applied, at.lost, at.epoch) == (EVENTS, EVENTS, 0, 0)
    assert dump(runtime.reader)["analysis_trend"][0][2] == EVENTS
    assert letters(runtime) == []


@pytest.fixture
def filled(runtime: Runtime) -> Runtime:
    append(runtime, *(event() for _ in range(EVENTS)))
    return runtime


def test_redis_killed_under_a_drain_comes_back_with_all_its_entries(filled: Runtime, redis_server: RedisServer) -> None:
    def fault() -> None:
        redis_server.kill()
        threading.Timer(0.5, redis_server.start).start()

    before = filled.stream.redis.info("server")["run_id"]
    drain_while(filled, fault, applied_at_least=50)
    assert filled.stream.redis.info("server")["run_id"] != before
    assert_each_counts_once(filled)


def test_a_run_through_an_outage_backs_off_and_parks_nothing(filled: Runtime, redis_server: RedisServer) -> None:
    redis_server.kill()
    with pytest.raises(RedisError):
        run(Drainer(filled, HOME), Lease(filled.queue.connection, HOME), budget_s=2)
    redis_server.start()
    drain_all(filled)
    assert_each_counts_once(filled)
