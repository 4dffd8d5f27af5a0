"""A rebuild is killed while real processes project real traffic: the same command continues, with the same result."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Connection, delete, select, text, update

from projections.read_models import activity, analysis_trend
from projections.transaction import checkpoint_table
from tests.support.commands import run_command
from tests.support.events import mixed
from tests.support.failpoints import REBUILD_POINTS
from tests.support.harness import append, checkpoints, drain_all, dump
from tests.support.invariants import assert_fully_projected
from tests.support.processes import Start, environ_of
from tests.support.rebuilds import differing, pending, rebuilder, results_of
from tests.support.servers import wait_until
from workers.drain.drainer import needs_drain
from workers.runtime import Runtime

HISTORY = list(mixed(4500, tenants=3, projects=4))
MANY_TENANTS = list(mixed(12_000, tenants=24, projects=2))
TRAFFIC = list(mixed(1500, tenants=3, projects=4, seed=2))


@contextmanager
def traffic(runtime: Runtime) -> Iterator[None]:
    """Run a producer within this block; at its end all of TRAFFIC is appended."""
    stop = threading.Event()

    def produce() -> None:
        for first in range(0, len(TRAFFIC), 10):
            append(runtime, *TRAFFIC[first : first + 10])
            stop.wait(0.02)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        yield
    finally:
        stop.set()
        producer.join()


def load_and_damage(runtime: Runtime) -> None:
    """Project the history, and damage many rows of the read models."""
    append(runtime, *HISTORY)
    drain_all(runtime)
    damage(runtime)


def damage(runtime: Runtime) -> None:
    with runtime.writer.begin() as connection:
        connection.execute(delete(activity.table))
        connection.execute(update(analysis_trend.table).values(total=-5))


@pytest.mark.parametrize("database_url", ["postgresql", pytest.param("sqlite", marks=pytest.mark.fleet)], indirect=True)
@pytest.mark.parametrize("number", [2])
@pytest.mark.parametrize("point", REBUILD_POINTS)
def test_the_same_command_continues_after_a_kill_and_each_event_counts_once(
    runtime: Runtime, start: Start, database_url: str, redis_url: str, point: str, number: int
) -> None:
    load_and_damage(runtime)
    start("cli", "worker")
    start("cli", "dispatcher")
    with traffic(runtime):
        assert start("tests.support.crashing_rebuild", point, str(number), "rebuild").wait(120) == -signal.SIGKILL
        left = pending(runtime)
        assert left
        reported = again(environ_of(database_url, redis_url))
    assert (reported["tenants"], reported["failed"], reported["pendingTenants"]) == (len(left), [], 0)
    wait_until(lambda: is_drained(runtime), "everything is projected", 120)
    assert_fully_projected(runtime, [*HISTORY, *TRAFFIC])
    tenants = ["ten_0", "ten_1", "ten_2"]
    assert differing(results_of(rebuilder(runtime, timeout_s=60.0).compare(tenants))) == {}


def again(environ: dict[str, str], *options: str) -> Any:
    done = run_command(environ, "rebuild", "--json", *options)
    assert done.returncode == 0, done.stderr
    assert "continuing the rebuild that was requested" in done.stderr
    return json.loads(done.stdout)


def is_drained(runtime: Runtime) -> bool:
    ends = runtime.stream.ends()
    return not any(needs_drain(at, ends[at.partition]) for at in checkpoints(runtime))


def test_concurrent_commands_share_the_tenants_and_a_killed_one_leaves_its_tenants_to_the_others(
    runtime: Runtime, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    append(runtime, *MANY_TENANTS)
    drain_all(runtime)
    truth = dump(runtime.reader)
    damage(runtime)
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    command = [sys.executable, "-m", "tests.support.paused_rebuild", str(meeting), "--json"]
    environ = environ_of(database_url, redis_url)
    doomed, *others = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) for _ in range(3)]
    wait_until(lambda: len(list(meeting.iterdir())) == 3, "each is folding a tenant", 120)
    doomed.kill()
    (meeting / "go").touch()
    reports = [json.loads(other.communicate(timeout=300)[0]) for other in others]
    doomed.communicate()
    assert [process.returncode for process in (doomed, *others)] == [-signal.SIGKILL, 0, 0]
    # If all used the same order, nearly all of the 24 tenants would be rebuilt twice.
    assert 24 <= sum(report["tenants"] for report in reports) <= 30
    assert pending(runtime) == {}
    assert dump(runtime.reader) == truth


def test_several_processes_give_every_tenant_the_same_rows_as_one(
    runtime: Runtime, database_url: str, redis_url: str
) -> None:
    append(runtime, *HISTORY)
    drain_all(runtime)
    truth = dump(runtime.reader)
    load_and_damage(runtime)
    command = [sys.executable, "-m", "cli", "rebuild", "--json", "--processes", "2"]
    environ = environ_of(database_url, redis_url)
    reported = json.loads(subprocess.run(command, check=True, env=environ, capture_output=True, timeout=300).stdout)
    assert (reported["tenants"], reported["events"], reported["failed"], reported["pendingTenants"]) == (
        3,
        len(HISTORY),
        [],
        0,
    )
    assert dump(runtime.reader) == truth


def test_a_killed_process_of_a_parallel_rebuild_is_reported_and_the_same_command_continues(
    runtime: Runtime, database_url: str, redis_url: str
) -> None:
    load_and_damage(runtime)
    environ = environ_of(database_url, redis_url)
    dying = [sys.executable, "-m", "tests.support.crashing_rebuild", "before its commit", "1"]
    command = [*dying, "rebuild", "--processes", "2"]
    done = subprocess.run(command, check=False, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "a process that folded events ended with exit code -9; its tenant is unchanged or finished" in done.stderr
    left = pending(runtime)
    assert left
    assert again(environ, "--processes", "2")["tenants"] == len(left)
    assert_fully_projected(runtime, HISTORY)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_of_a_parallel_rebuild_end_with_the_command_that_started_them(
    runtime: Runtime, start: Start, database_url: str, redis_url: str, by: signal.Signals
) -> None:
    load_and_damage(runtime)
    with runtime.writer.begin() as connection:
        connection.execute(select(checkpoint_table.table).with_for_update())  # blocks every drain
        asking = start("cli", "rebuild", "--processes", "3")
        wait_until(lambda: awake(connection) and waiting_for_locks(runtime) == 3, "the drains wait for their claims")
        helpers = psutil.Process(asking.pid).children()
        asking.send_signal(by)
        wait_until(lambda: awake(connection) and asking.poll() is not None, "the process ends")
        # Without the kill they would wait for their claims for ten minutes.
        wait_until(
            lambda: awake(connection) and psutil.wait_procs(helpers, timeout=0)[1] == [],
            "the processes end with the command",
        )
    assert start("cli", "rebuild").wait(60) == 0
    assert_fully_projected(runtime, HISTORY)


def awake(connection: Connection) -> bool:
    """Use a connection, so that its session is not ended as idle."""
    return connection.scalar(text("SELECT true")) is True


def waiting_for_locks(runtime: Runtime) -> int:
    waiting = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with runtime.reader.connect() as connection:
        return connection.scalar(text(f"SELECT count(*) {waiting}")) or 0
