"""Processes that die or sleep at the worst moment: each event counts once, and nobody waits for a zombie."""

import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import psutil
import pytest

from event_stream.event_types import partition_of
from tests.support.driving import append, append_raw, checkpoints, drain_all, letters
from tests.support.events import TENANT, body, event
from tests.support.law import assert_all_is_well
from tests.support.points import POINTS
from tests.support.processes import Start
from tests.support.servers import wait_until
from workers.dispatch.dispatcher import Dispatcher
from workers.drain.drainer import Drainer, run
from workers.jobs.lease import Lease
from workers.runtime import Runtime

Dying: TypeAlias = Callable[..., "subprocess.Popen[bytes]"]

HOME = partition_of(TENANT, 4)
EVENTS = 120
# There SQLite's lock is held, and nobody else can go on before the sleeper ends or wakes up.
INSIDE_THE_TRANSACTION = ("after claim", "inside accept", "after fold", "before commit")


@pytest.fixture
def dying(start: Start) -> Dying:
    def run(point: str, number: signal.Signals, on_call: int, **environ: str) -> "subprocess.Popen[bytes]":
        return start("tests.support.dying_drain", point, str(int(number)), str(on_call), str(HOME), **environ)

    return run


def await_paused_past_its_lease(runtime: Runtime, process: "subprocess.Popen[bytes]") -> None:
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "it is paused", 120)
    runtime.queue.connection.delete(f"projector:drain-lease:{{{HOME}}}")


def fill(runtime: Runtime) -> list[dict[str, Any]]:
    """Append events, a repeat and bad entries; return the events."""
    made = [event("project.created.v1"), *(event() for _ in range(EVENTS)), event("watchdog.evaluated.v1")]
    append(runtime, *made[: EVENTS // 2])
    append_raw(runtime, HOME, b"nonsense", body(made[3]), b"other nonsense")
    append(runtime, *made[EVENTS // 2 :])
    return made


def assert_each_counts_once(runtime: Runtime, made: list[dict[str, Any]]) -> None:
    counted = assert_all_is_well(runtime, made)
    assert (counted["duplicates"], counted["dead_lettered"]) == (1, 2)
    assert [letter.times_seen for letter in letters(runtime)] == [1, 1]


def assert_hint_is_right(runtime: Runtime) -> None:
    at, hint = checkpoints(runtime)[HOME], runtime.stream.projected([HOME])[HOME]
    assert (hint.position, hint.entries) == (at.position, at.read)


@pytest.mark.parametrize("point", [point for point in POINTS if "lease" not in point])
@pytest.mark.parametrize("on_call", [pytest.param(1, marks=pytest.mark.fleet), 3])
def test_a_drain_killed_at_any_point_is_continued_by_the_next(
    runtime: Runtime, dying: Dying, point: str, on_call: int
) -> None:
    made = fill(runtime)
    process = dying(point, signal.SIGKILL, on_call)
    assert process.wait(60) == -signal.SIGKILL
    runtime.queue.connection.delete(f"projector:drain-lease:{{{HOME}}}")
    drain_all(runtime)
    assert_each_counts_once(runtime, made)
    Dispatcher(runtime).sweep()  # who died behind the last commit has told nobody
    assert_hint_is_right(runtime)


def test_a_drain_killed_before_it_frees_its_lease_delays_the_next_by_the_lease_only(
    runtime: Runtime, dying: Dying
) -> None:
    made = fill(runtime)
    process = dying("before the lease is released", signal.SIGKILL, 1)
    assert process.wait(60) == -signal.SIGKILL
    append(runtime, late := event())
    assert not Lease(runtime.queue.connection, HOME).take()
    wait_until(
        lambda: runtime.queue.connection.get(f"projector:drain-lease:{{{HOME}}}") is None, "the lease is over", 120
    )
    drain_all(runtime)
    assert checkpoints(runtime)[HOME].applied == len([*made, late])


@pytest.mark.parametrize("point", POINTS)
def test_a_drain_paused_at_any_point_past_its_lease_changes_nothing_when_it_wakes_up(
    runtime: Runtime, dying: Dying, point: str
) -> None:
    made = fill(runtime)
    # The second read is made ahead, while the first batch is in the database.
    first = "lease" in point or "read" in point
    process = dying(point, signal.SIGSTOP, 1 if first else 2, CLAIMS_SLEEP_AT_MOST="1s")
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


def test_nobody_waits_longer_than_the_timeout_for_a_claim_that_sleeps(runtime: Runtime, dying: Dying) -> None:
    made = fill(runtime)
    process = dying("after claim", signal.SIGSTOP, 1)
    await_paused_past_its_lease(runtime, process)
    if runtime.writer.dialect.name == "sqlite":
        # Nothing but its end frees SQLite's lock: `projector up` sees to that.
        process.kill()
    started = time.monotonic()
    while checkpoints(runtime)[HOME].applied < len(made):
        run(Drainer(runtime, HOME), Lease(runtime.queue.connection, HOME), budget_s=5)
        assert time.monotonic() - started < 80
    assert_each_counts_once(runtime, made)
    process.send_signal(signal.SIGCONT)
    process.wait(60)
    assert_each_counts_once(runtime, made)
