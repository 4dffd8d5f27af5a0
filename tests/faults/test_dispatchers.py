"""Dispatchers that die, sleep, or are two at once: every event arrives, and nothing goes that somebody needs."""

import signal
import subprocess
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from event_stream.event_types import partition_of
from tests.support.driving import append, checkpoints, drain_all
from tests.support.dying_dispatcher import POINTS
from tests.support.events import TENANT, body, event, mixed
from tests.support.law import assert_all_is_well
from tests.support.processes import Start
from tests.support.servers import wait_until
from workers.dispatch.dispatcher import HEARTBEATS_KEY, QUEUED_PER_PARTITION, Dispatcher
from workers.dispatch.rq_worker import worker
from workers.jobs import queue as ringing
from workers.reporting.status import read_dispatchers
from workers.runtime import Runtime

# What a dispatcher does to Redis hangs on no database.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

PARTITIONS = 4
HOME = partition_of(TENANT, PARTITIONS)
TRIMMING = ("before a trim", "in the middle of trimming")


@pytest.fixture
def as_process(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """Let jobs in this process use the test's runtime."""
    monkeypatch.setattr("workers.drain.drainer.process_runtime", lambda: runtime)
    return runtime


@pytest.fixture
def dying(start: Start) -> Callable[..., "subprocess.Popen[bytes]"]:
    def run(point: str, number: signal.Signals, on_call: int = 1) -> "subprocess.Popen[bytes]":
        return start("tests.support.dying_dispatcher", point, str(int(number)), str(on_call))

    return run


def sweep_and_work(runtime: Runtime) -> None:
    """Do what a dispatcher and a worker do, until nothing is behind."""

    def is_done() -> bool:
        _, behind = Dispatcher(runtime).sweep()
        worker(runtime).work(burst=True, logging_level="WARNING")
        return not behind

    wait_until(is_done, "nothing is behind", 120)


def lengths(runtime: Runtime) -> list[int]:
    return [end.length for end in runtime.stream.ends()]


def assert_dead_where_it_should_be(runtime: Runtime, point: str) -> None:
    leases: Any = runtime.queue.connection.keys("projector:drain-lease:*")
    trimmed = [at.read > length for at, length in zip(checkpoints(runtime), lengths(runtime), strict=True)]
    match point:
        case "before the sweep's look" | "between trim and ring":
            assert (len(leases), runtime.queue.count) == (0, 0)
        case "between lease and ring":
            assert (len(leases), runtime.queue.count) == (1, 0)
        case "after the ring":
            assert (len(leases), runtime.queue.count) == (1, 1)
        case "after all rings":
            assert (len(leases), runtime.queue.count) == (PARTITIONS, PARTITIONS)
        case "before a trim":
            assert sum(trimmed) == 0
        case "in the middle of trimming":
            assert sum(trimmed) == 1


@pytest.mark.parametrize("point", POINTS)
def test_a_dispatcher_killed_at_any_point_is_continued_by_the_next(
    as_process: Runtime, dying: Callable[..., "subprocess.Popen[bytes]"], point: str
) -> None:
    made = list(mixed(1500, tenants=12))
    assert {partition_of(each["tenantid"], PARTITIONS) for each in made} == set(range(PARTITIONS))
    append(as_process, *made)
    if point in TRIMMING:
        drain_all(as_process)
    assert dying(point, signal.SIGKILL).wait(60) == -signal.SIGKILL
    assert_dead_where_it_should_be(as_process, point)
    append(as_process, late := event())
    sweep_and_work(as_process)
    assert_all_is_well(as_process, [*made, late])
    assert as_process.queue.connection.keys("rq:job:*") == []


@pytest.mark.parametrize("point", ["before the sweep's look", "between trim and ring", "after all rings", *TRIMMING])
def test_a_dispatcher_that_wakes_up_trims_nothing_of_a_stream_that_was_replaced_meanwhile(
    as_process: Runtime, dying: Callable[..., "subprocess.Popen[bytes]"], point: str
) -> None:
    redis: Any = as_process.stream.redis
    first = [event() for _ in range(400)]
    append(as_process, *first)
    drain_all(as_process)
    zombie = dying(point, signal.SIGSTOP, on_call=1 if point in TRIMMING else 2)
    wait_until(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_STOPPED, "it is paused", 120)
    below_ms = checkpoints(as_process)[HOME].position.ms - 100_000
    redis.delete(f"events:{{{HOME}}}")
    second = [event() for _ in range(300)]
    for number, each in enumerate(second):
        redis.xadd(f"events:{{{HOME}}}", {"event": body(each)}, id=f"{below_ms + number}-0")
    zombie.send_signal(signal.SIGCONT)
    await_sweeps(as_process, 3)
    assert lengths(as_process)[HOME] == 300
    sweep_and_work(as_process)
    assert zombie.poll() is None
    assert_all_is_well(as_process, first + second)


def await_sweeps(runtime: Runtime, count: int) -> None:
    """Return once the only dispatcher has begun and ended `count` sweeps."""
    for _ in range(count):
        since_ms = runtime.stream.now_ms()
        wait_until(lambda since_ms=since_ms: last_beat_ms(runtime) > since_ms, "it sweeps again", 120)


def last_beat_ms(runtime: Runtime) -> float:
    beats: Any = runtime.queue.connection.zrange(HEARTBEATS_KEY, 0, -1, withscores=True)
    return max((at_ms for _, at_ms in beats), default=0.0)


def test_two_dispatchers_at_once_do_no_harm(as_process: Runtime, start: Start) -> None:
    both = [start("cli", "dispatcher") for _ in range(2)]
    wait_until(lambda: len(read_dispatchers(as_process)) == 2, "both sweep", 120)
    longest = 0
    made = list(mixed(1200, tenants=12))
    for first in range(0, len(made), 100):
        append(as_process, *made[first : first + 100])
        longest = max(longest, as_process.queue.count)
        worker(as_process).work(burst=True, logging_level="WARNING")
    wait_until(lambda: is_idle(as_process), "nothing is behind", 120)
    assert longest <= QUEUED_PER_PARTITION * PARTITIONS
    assert_all_is_well(as_process, made)
    for each in both:
        each.terminate()
        assert each.wait(30) == 0


def is_idle(runtime: Runtime) -> bool:
    worker(runtime).work(burst=True, logging_level="WARNING")
    ends = zip(checkpoints(runtime), runtime.stream.ends(), strict=True)
    return all(end.position in (None, at.position) for at, end in ends)


@pytest.mark.first
def test_after_hours_without_a_worker_the_queue_is_bounded_and_one_worker_catches_up(as_process: Runtime) -> None:
    """Ten hours are 7,200 leases that run out; here there are fewer and shorter ones, which run out as really."""
    made = list(mixed(600, tenants=12))
    connection: Any = as_process.queue.connection
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ringing, "LEASE_S", 0.02)
        for first in range(0, len(made), 5):
            append(as_process, *made[first : first + 5])
            Dispatcher(as_process).sweep()
            assert as_process.queue.count <= QUEUED_PER_PARTITION * PARTITIONS
            wait_until(lambda: not connection.keys("projector:drain-lease:*"), "all leases have run out", 120)
    assert as_process.queue.count == len(connection.keys("rq:job:*")) == QUEUED_PER_PARTITION * PARTITIONS
    worker(as_process).work(burst=True, logging_level="WARNING")
    assert_all_is_well(as_process, made)
    assert connection.keys("rq:job:*") == []
