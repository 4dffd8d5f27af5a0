"""Dispatchers that die, are paused, or run twice: every event arrives, and no needed entry is trimmed."""

import signal
import subprocess
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from event_stream.events.event import partition_of
from tests.support.crashing_dispatcher import POINTS
from tests.support.events import TENANT, body, event, mixed
from tests.support.harness import append, checkpoints, drain_all
from tests.support.invariants import assert_fully_projected
from tests.support.processes import Start
from tests.support.servers import wait_until
from workers.dispatch.dispatcher import HEARTBEATS_KEY, QUEUED_PER_PARTITION, Dispatcher
from workers.dispatch.rq_worker import create_worker
from workers.jobs import lease
from workers.reporting import problems
from workers.reporting.heartbeats import read_dispatchers, read_workers
from workers.reporting.status import ProcessStatus
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime

# What a dispatcher does to Redis hangs on no database.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

PARTITIONS = 4
TENANT_PARTITION = partition_of(TENANT, PARTITIONS)
TRIMMING = ("before a trim", "in the middle of trimming")


@pytest.fixture
def as_process(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """Let jobs in this process use the test's runtime."""
    monkeypatch.setattr("workers.drain.drainer.process_runtime", lambda: runtime)
    return runtime


@pytest.fixture
def dying(start: Start) -> Callable[..., "subprocess.Popen[bytes]"]:
    def run(point: str, number: signal.Signals, nth_call: int = 1) -> "subprocess.Popen[bytes]":
        return start("tests.support.crashing_dispatcher", point, str(int(number)), str(nth_call))

    return run


def sweep_and_work(runtime: Runtime) -> None:
    """Dispatch and drain until no partition has lag."""

    def is_done() -> bool:
        _, lagging = Dispatcher(runtime).sweep()
        create_worker(runtime).work(burst=True, logging_level="WARNING")
        return not lagging

    wait_until(is_done, "no partition has lag", 120)


def lengths(runtime: Runtime) -> list[int]:
    return [end.length for end in runtime.stream.ends()]


def assert_died_at(runtime: Runtime, point: str) -> None:
    leases: Any = runtime.queue.connection.keys("projector:drain-lease:*")
    trimmed = [at.read > length for at, length in zip(checkpoints(runtime), lengths(runtime), strict=True)]
    match point:
        case "before the sweep reads the streams" | "between trim and enqueue":
            assert (len(leases), runtime.queue.count) == (0, 0)
        case "between lease and enqueue":
            assert (len(leases), runtime.queue.count) == (1, 0)
        case "after the first enqueue":
            assert (len(leases), runtime.queue.count) == (1, 1)
        case "after all drains are enqueued":
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
    assert_died_at(as_process, point)
    append(as_process, late := event())
    sweep_and_work(as_process)
    assert_fully_projected(as_process, [*made, late])
    assert as_process.queue.connection.keys("rq:job:*") == []


@pytest.mark.parametrize(
    "point",
    ["before the sweep reads the streams", "between trim and enqueue", "after all drains are enqueued", *TRIMMING],
)
def test_a_dispatcher_that_resumes_does_not_trim_a_stream_that_was_replaced_during_its_pause(
    as_process: Runtime, dying: Callable[..., "subprocess.Popen[bytes]"], point: str
) -> None:
    redis: Any = as_process.stream.redis
    first = [event() for _ in range(400)]
    append(as_process, *first)
    drain_all(as_process)
    zombie = dying(point, signal.SIGSTOP, nth_call=1 if point in TRIMMING else 2)
    wait_until(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_STOPPED, "the process is paused", 120)
    below_ms = checkpoints(as_process)[TENANT_PARTITION].position.ms - 100_000
    redis.delete(f"events:{{{TENANT_PARTITION}}}")
    second = [event() for _ in range(300)]
    for number, each in enumerate(second):
        redis.xadd(f"events:{{{TENANT_PARTITION}}}", {"event": body(each)}, id=f"{below_ms + number}-0")
    zombie.send_signal(signal.SIGCONT)
    await_sweeps(as_process, 3)
    assert lengths(as_process)[TENANT_PARTITION] == 300
    sweep_and_work(as_process)
    assert zombie.poll() is None
    assert_fully_projected(as_process, first + second)


def await_sweeps(runtime: Runtime, count: int) -> None:
    """Return once the only dispatcher has completed `count` sweeps."""
    for _ in range(count):
        since_ms = runtime.stream.now_ms()
        wait_until(lambda since_ms=since_ms: last_beat_ms(runtime) > since_ms, "the dispatcher sweeps again", 120)


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
        create_worker(as_process).work(burst=True, logging_level="WARNING")
    wait_until(lambda: is_idle(as_process), "no partition has lag", 120)
    assert longest <= QUEUED_PER_PARTITION * PARTITIONS
    assert_fully_projected(as_process, made)
    for each in both:
        each.terminate()
        assert each.wait(30) == 0


def is_idle(runtime: Runtime) -> bool:
    create_worker(runtime).work(burst=True, logging_level="WARNING")
    ends = zip(checkpoints(runtime), runtime.stream.ends(), strict=True)
    return all(end.position in (None, at.position) for at, end in ends)


@pytest.mark.first
def test_after_hours_without_a_worker_the_queue_is_bounded_and_one_worker_catches_up(as_process: Runtime) -> None:
    """Ten hours are 7,200 expired leases; here there are fewer and shorter ones, which expire in the same way."""
    made = list(mixed(600, tenants=12))
    connection: Any = as_process.queue.connection
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "LEASE_S", 0.02)
        for first in range(0, len(made), 5):
            append(as_process, *made[first : first + 5])
            Dispatcher(as_process).sweep()
            assert as_process.queue.count <= QUEUED_PER_PARTITION * PARTITIONS
            wait_until(lambda: not connection.keys("projector:drain-lease:*"), "all leases have expired", 120)
    assert as_process.queue.count == len(connection.keys("rq:job:*")) == QUEUED_PER_PARTITION * PARTITIONS
    create_worker(as_process).work(burst=True, logging_level="WARNING")
    Dispatcher(as_process).sweep()  # the queue may have been full when a partition got its first event
    create_worker(as_process).work(burst=True, logging_level="WARNING")
    assert_fully_projected(as_process, made)
    assert connection.keys("rq:job:*") == []


@pytest.mark.parametrize("role", ["dispatcher", "worker"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_process_that_ends_cleanly_is_forgotten_at_once(
    runtime: Runtime, start: Start, role: str, number: signal.Signals
) -> None:
    def read() -> list[ProcessStatus]:
        return {"dispatcher": read_dispatchers, "worker": read_workers}[role](runtime)

    first = start("cli", role)
    wait_until(lambda: any(each.state in ("sweeping", "idle") for each in read()), "the first process works", 120)
    names = {each.name for each in read()}
    first.send_signal(number)
    assert first.wait(30) == 0
    assert read() == []
    start("cli", role)
    wait_until(read, "the second process works", 120)
    assert not names & {each.name for each in read()}
    assert problems.silent_processes(read_status(runtime)) == []


def test_a_dispatcher_does_not_revive_the_heartbeat_of_a_dead_one_with_its_host_and_pid(runtime: Runtime) -> None:
    killed, new = Dispatcher(runtime), Dispatcher(runtime)  # in one process, so host and pid are the same
    killed.sweep()
    long_ago_ms = runtime.stream.now_ms() - 60_000
    runtime.queue.connection.zadd(HEARTBEATS_KEY, {killed.name: long_ago_ms})
    new.sweep()
    assert len(read_dispatchers(runtime)) == 2
    assert problems.silent_processes(read_status(runtime)) == [
        "1 of 2 dispatchers sent no heartbeat for more than 30 s"
    ]
    new.run(lambda: True)
    (left,) = read_dispatchers(runtime)
    assert left.name == killed.name
