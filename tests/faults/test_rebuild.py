"""A rebuild that is killed while real processes project real traffic: the same command goes on, and nothing shows."""

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
from projections.transaction import checkpoint
from tests.support.commands import carry_out
from tests.support.driving import append, checkpoints, drain_all, dump
from tests.support.events import mixed
from tests.support.law import assert_all_is_well
from tests.support.points import REBUILD_POINTS
from tests.support.processes import Start, environ_of
from tests.support.rebuilding import differing, outcomes_of, rebuilder, still_due
from tests.support.servers import wait_until
from workers.drain.drainer import needs_drain
from workers.runtime import Runtime

HISTORY = list(mixed(4500, tenants=3, projects=4))
MANY_TENANTS = list(mixed(12_000, tenants=24, projects=2))
TRAFFIC = list(mixed(1500, tenants=3, projects=4, seed=2))


@contextmanager
def traffic(runtime: Runtime) -> Iterator[None]:
    """Let a producer append within this block; all of TRAFFIC is appended behind it."""
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
    """Project the history, and make much of the read models wrong."""
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
def test_the_same_command_goes_on_after_a_kill_and_each_event_counts_once(
    runtime: Runtime, start: Start, database_url: str, redis_url: str, point: str, number: int
) -> None:
    load_and_damage(runtime)
    start("cli", "worker")
    start("cli", "dispatcher")
    with traffic(runtime):
        assert start("tests.support.dying_rebuild", point, str(number), "rebuild").wait(120) == -signal.SIGKILL
        left = still_due(runtime)
        assert left
        told = again(environ_of(database_url, redis_url))
    assert (told["tenants"], told["failed"], told["pendingTenants"]) == (len(left), [], 0)
    wait_until(lambda: is_drained(runtime), "everything is projected", 120)
    assert_all_is_well(runtime, [*HISTORY, *TRAFFIC])
    tenants = ["ten_0", "ten_1", "ten_2"]
    assert differing(outcomes_of(rebuilder(runtime, timeout_s=60.0).compare(tenants))) == {}


def again(environ: dict[str, str], *options: str) -> Any:
    done = carry_out(environ, "rebuild", "--json", *options)
    assert done.returncode == 0, done.stderr
    assert "going on with what was begun" in done.stderr
    return json.loads(done.stdout)


def is_drained(runtime: Runtime) -> bool:
    ends = runtime.stream.ends()
    return not any(needs_drain(at, ends[at.partition]) for at in checkpoints(runtime))


def test_commands_at_once_share_the_tenants_and_one_that_is_killed_leaves_them_to_the_others(
    runtime: Runtime, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    append(runtime, *MANY_TENANTS)
    drain_all(runtime)
    truth = dump(runtime.reader)
    damage(runtime)
    command = [sys.executable, "-m", "tests.support.paused_rebuild", str(tmp_path), "--json"]
    environ = environ_of(database_url, redis_url)
    doomed, *others = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) for _ in range(3)]
    wait_until(lambda: len(list(tmp_path.iterdir())) == 3, "each is folding a tenant", 120)
    doomed.kill()
    (tmp_path / "go").touch()
    reports = [json.loads(other.communicate(timeout=300)[0]) for other in others]
    doomed.communicate()
    assert [process.returncode for process in (doomed, *others)] == [-signal.SIGKILL, 0, 0]
    # In the same order nearly all of the 24 tenants would be rebuilt twice.
    assert 24 <= sum(report["tenants"] for report in reports) <= 36
    assert still_due(runtime) == {}
    assert dump(runtime.reader) == truth


def test_processes_side_by_side_give_every_tenant_what_one_gives(
    runtime: Runtime, database_url: str, redis_url: str
) -> None:
    append(runtime, *HISTORY)
    drain_all(runtime)
    truth = dump(runtime.reader)
    load_and_damage(runtime)
    command = [sys.executable, "-m", "cli", "rebuild", "--json", "--processes", "2"]
    environ = environ_of(database_url, redis_url)
    told = json.loads(subprocess.run(command, check=True, env=environ, capture_output=True, timeout=300).stdout)
    assert (told["tenants"], told["events"], told["failed"], told["pendingTenants"]) == (3, len(HISTORY), [], 0)
    assert dump(runtime.reader) == truth


def test_of_processes_side_by_side_one_that_is_killed_is_told_and_the_same_command_goes_on(
    runtime: Runtime, database_url: str, redis_url: str
) -> None:
    load_and_damage(runtime)
    environ = environ_of(database_url, redis_url)
    dying = [sys.executable, "-m", "tests.support.dying_rebuild", "before its commit", "1"]
    command = [*dying, "rebuild", "--processes", "2"]
    done = subprocess.run(command, check=False, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "a process that folded events was ended (exit code -9); its tenant is as it was, or done" in done.stderr
    left = still_due(runtime)
    assert left
    assert again(environ, "--processes", "2")["tenants"] == len(left)
    assert_all_is_well(runtime, HISTORY)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_side_by_side_end_with_whoever_asked(
    runtime: Runtime, start: Start, database_url: str, redis_url: str, by: signal.Signals
) -> None:
    load_and_damage(runtime)
    with runtime.writer.begin() as connection:
        connection.execute(select(checkpoint.table).with_for_update())  # nobody gets through
        asking = start("cli", "rebuild", "--processes", "3")
        wait_until(lambda: awake(connection) and waiting_for_locks(runtime) == 3, "they wait for their claims")
        helpers = psutil.Process(asking.pid).children()
        asking.send_signal(by)
        wait_until(lambda: awake(connection) and asking.poll() is not None, "it ends")
        # They would wait for their claims for ten minutes.
        wait_until(lambda: awake(connection) and psutil.wait_procs(helpers, timeout=0)[1] == [], "they end with it")
    assert start("cli", "rebuild").wait(60) == 0
    assert_all_is_well(runtime, HISTORY)


def awake(connection: Connection) -> bool:
    """Use a connection, as others end the session of whoever sleeps on a claim."""
    return connection.scalar(text("SELECT true")) is True


def waiting_for_locks(runtime: Runtime) -> int:
    waiting = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with runtime.reader.connect() as connection:
        return connection.scalar(text(f"SELECT count(*) {waiting}")) or 0
