"""Drains that die or are paused at critical moments: each event counts once, and nothing waits for a zombie."""

import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import psutil
import pytest

from event_stream.events.event import partition_of
from tests.support.events import TENANT, body, event
from tests.support.failpoints import POINTS
from tests.support.harness import append, append_raw, checkpoints, drain_all, stored_dead_letters
from tests.support.invariants import assert_fully_projected
from tests.support.processes import Start
from tests.support.servers import wait_until
from workers.dispatch.dispatcher import Dispatcher
from workers.drain.drainer import Drainer, run
from workers.jobs.lease import Lease
from workers.runtime import Runtime

Dying: TypeAlias = Callable[..., "subprocess.Popen[bytes]"]

TENANT_PARTITION = partition_of(TENANT, 4)
EVENTS = 120
# At these points SQLite's lock is held, and no other drain can continue before the paused one ends or resumes.
INSIDE_THE_TRANSACTION = ("after claim", "inside accept", "after fold", "before commit")


@pytest.fixture
def dying(start: Start) -> Dying:
    def run(point: str, number: signal.Signals, nth_call: int, **environ: str) -> "subprocess.Popen[bytes]":
        return start(
            "tests.support.crashing_drain", point, str(int(number)), str(nth_call), str(TENANT_PARTITION), **environ
        )

    return run


def await_paused_past_its_lease(runtime: Runtime, process: "subprocess.Popen[bytes]") -> None:
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "the process is paused", 120)
    runtime.queue.connection.delete(f"projector:drain-lease:{{{TENANT_PARTITION}}}")


def fill(runtime: Runtime) -> list[dict[str, Any]]:
    """Append events, a repeat and bad entries; return the events."""
    made = [event("project.created.v1"), *(event() for _ in range(EVENTS)), event("watchdog.evaluated.v1")]
    append(runtime, *made[: EVENTS // 2])
    append_raw(runtime, TENANT_PARTITION, b"nonsense", body(made[3]), b"other nonsense")
    append(runtime, *made[EVENTS // 2 :])
    return made


def assert_each_counts_once(runtime: Runtime, made: list[dict[str, Any]]) -> None:
    counted = assert_fully_projected(runtime, made)
    assert (counted["duplicates"], counted["dead_lettered"]) == (1, 2)
    assert [dead_letter.times_seen for dead_letter in stored_dead_letters(runtime)] == [1, 1]


def assert_hint_is_right(runtime: Runtime) -> None:
    at, hint = checkpoints(runtime)[TENANT_PARTITION], runtime.stream.projected([TENANT_PARTITION])[TENANT_PARTITION]
    assert (hint.position, hint.entries) == (at.position, at.read)


@pytest.mark.parametrize("point", [point for point in POINTS if "lease" not in point])
@pytest.mark.parametrize("nth_call", [pytest.param(1, marks=pytest.mark.fleet), 3])
def test_a_drain_killed_at_any_point_is_continued_by_the_next(
    runtime: Runtime, dying: Dying, point: str, nth_call: int
) -> None:
    made = fill(runtime)
    process = dying(point, signal.SIGKILL, nth_call)
    assert process.wait(60) == -signal.SIGKILL
    runtime.queue.connection.delete(f"projector:drain-lease:{{{TENANT_PARTITION}}}")
    drain_all(runtime)
    assert_each_counts_once(runtime, made)
    Dispatcher(runtime).sweep()  # a drain that died after its last commit has not published its progress
    assert_hint_is_right(runtime)


def test_a_drain_killed_before_it_releases_its_lease_delays_the_next_by_at_most_the_lease(
    runtime: Runtime, dying: Dying
) -> None:
    made = fill(runtime)
    process = dying("before the lease is released", signal.SIGKILL, 1)
    assert process.wait(60) == -signal.SIGKILL
    append(runtime, late := event())
    assert not Lease(runtime.queue.connection, TENANT_PARTITION).acquire()
    wait_until(
        lambda: runtime.queue.connection.get(f"projector:drain-lease:{{{TENANT_PARTITION}}}") is None,
        "the lease is over",
        120,
    )
    drain_all(runtime)
    assert checkpoints(runtime)[TENANT_PARTITION].applied == len([*made, late])


@pytest.mark.parametrize("point", POINTS)
def test_a_drain_paused_at_any_point_for_longer_than_its_lease_changes_nothing_when_it_resumes(
    runtime: Runtime, dying: Dying, point: str
) -> None:
    made = fill(runtime)
    # The second read is a prefetch, while the first batch is written to the database.
    first = "lease" in point or "read" in point
    process = dying(point, signal.SIGSTOP, 1 if first else 2, TEST_IDLE_CLAIM_TIMEOUT="1s")
    await_paused_past_its_lease(runtime, process)
    if runtime.writer.dialect.name == "postgresql" or point not in INSIDE_THE_TRANSACTION:
        drain_all(runtime)
        assert_each_counts_once(runtime, made)
    append(runtime, late := event())
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 0
    drain_all(runtime)
    assert_each_counts_once(runtime, [*made, late])
    Dispatcher(runtime).sweep()
    assert_hint_is_right(runtime)


def test_no_drain_waits_longer_than_the_timeout_for_the_claim_of_a_paused_drain(runtime: Runtime, dying: Dying) -> None:
    made = fill(runtime)
    process = dying("after claim", signal.SIGSTOP, 1)
    await_paused_past_its_lease(runtime, process)
    if runtime.writer.dialect.name == "sqlite":
        # SQLite's lock is released only when the process ends; `projector up` ends paused processes.
        process.kill()
    started = time.monotonic()
    while checkpoints(runtime)[TENANT_PARTITION].applied < len(made):
        run(Drainer(runtime, TENANT_PARTITION), Lease(runtime.queue.connection, TENANT_PARTITION), budget_s=5)
        assert time.monotonic() - started < 80
    assert_each_counts_once(runtime, made)
    process.send_signal(signal.SIGCONT)
    process.wait(60)
    assert_each_counts_once(runtime, made)
