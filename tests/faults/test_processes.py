"""Processes that die or sleep at the worst moment: each event counts once, and nobody waits for a zombie."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from event_stream.types import partition_of
from tests.support.driving import append, append_raw, checkpoints, drain_all, dump, letters
from tests.support.dying_drain import POINTS
from tests.support.events import TENANT, body, event
from tests.support.servers import wait_until
from workers.drain import Drainer, run
from workers.queue import Lease
from workers.runtime import Runtime

HOME = partition_of(TENANT, 4)
EVENTS = 120


def dying(
    point: str, number: signal.Signals, on_call: int, database_url: str, redis_url: str
) -> "subprocess.Popen[bytes]":
    environ = {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url.replace("+psycopg", ""),
        "PROJECTOR_PARTITIONS": "4",
    }
    command = [sys.executable, "-m", "tests.support.dying_drain", point, str(int(number)), str(on_call), str(HOME)]
    return subprocess.Popen(command, env=os.environ | environ)


def await_paused_past_its_lease(runtime: Runtime, process: "subprocess.Popen[bytes]") -> None:
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "it is paused")
    runtime.queue.connection.delete(f"projector:lease:{{{HOME}}}")


def fill(runtime: Runtime) -> list[dict[str, Any]]:
    """Append events, a repeat and bad entries; return the events."""
    made = [event("project.created.v1"), *(event() for _ in range(EVENTS)), event("watchdog.evaluated.v1")]
    append(runtime, *made[: EVENTS // 2])
    append_raw(runtime, HOME, b"nonsense", body(made[3]), b"other nonsense")
    append(runtime, *made[EVENTS // 2 :])
    return made


def assert_each_counts_once(runtime: Runtime, made: list[dict[str, Any]]) -> None:
    at = checkpoints(runtime)[HOME]
    assert (at.applied, at.duplicates, at.parked, at.lost) == (len(made), 1, 2, 0)
    assert at.read == at.applied + at.duplicates + at.parked
    assert [letter.times_seen for letter in letters(runtime)] == [1, 1]
    rows = dump(runtime.reader)
    assert rows["analysis_trend"][0][2] == EVENTS
    assert len(rows["activity"]) == 1
    hint = runtime.stream.projected([HOME])[HOME]
    assert (hint.position, hint.entries) == (at.position, at.read)


@pytest.mark.parametrize("point", [point for point in POINTS if "lease" not in point])
@pytest.mark.parametrize("on_call", [1, 3])
def test_a_drain_killed_at_any_point_is_continued_by_the_next(
    runtime: Runtime, database_url: str, redis_url: str, point: str, on_call: int
) -> None:
    made = fill(runtime)
    process = dying(point, signal.SIGKILL, on_call, database_url, redis_url)
    assert process.wait(60) == -signal.SIGKILL
    runtime.queue.connection.delete(f"projector:lease:{{{HOME}}}")
    drain_all(runtime)
    assert_each_counts_once(runtime, made)


def test_a_drain_killed_before_it_frees_its_lease_delays_the_next_by_the_lease_only(
    runtime: Runtime, database_url: str, redis_url: str
) -> None:
    made = fill(runtime)
    process = dying("before the lease is released", signal.SIGKILL, 1, database_url, redis_url)
    assert process.wait(60) == -signal.SIGKILL
    append(runtime, late := event())
    assert not Lease(runtime.queue.connection, HOME).take()
    wait_until(lambda: runtime.queue.connection.get(f"projector:lease:{{{HOME}}}") is None, "the lease is over", 10)
    drain_all(runtime)
    assert checkpoints(runtime)[HOME].applied == len([*made, late])


def test_a_zombie_that_wakes_up_commits_nothing(runtime: Runtime, database_url: str, redis_url: str) -> None:
    """Paused before its claim, past its lease, while others went on."""
    made = fill(runtime)
    process = dying("after read", signal.SIGSTOP, 1, database_url, redis_url)
    await_paused_past_its_lease(runtime, process)
    drain_all(runtime)
    assert_each_counts_once(runtime, made)
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 0
    assert_each_counts_once(runtime, made)


def test_nobody_waits_longer_than_the_timeout_for_a_claim_that_sleeps(
    runtime: Runtime, database_url: str, redis_url: str
) -> None:
    made = fill(runtime)
    process = dying("after claim", signal.SIGSTOP, 1, database_url, redis_url)
    await_paused_past_its_lease(runtime, process)
    if runtime.writer.dialect.name == "sqlite":
        # Nothing but its end frees SQLite's lock: `projector up` sees to that.
        process.kill()
    started = time.monotonic()
    while checkpoints(runtime)[HOME].applied < len(made):
        run(Drainer(runtime, HOME), Lease(runtime.queue.connection, HOME), budget_s=5)
        assert time.monotonic() - started < 40
    assert_each_counts_once(runtime, made)
    process.send_signal(signal.SIGCONT)
    process.wait(60)
    assert_each_counts_once(runtime, made)
