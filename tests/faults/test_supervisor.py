"""The supervisor on a machine that lacks resources: processes keep running, and dead ones are restarted when possible."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.local import supervisor as supervising
from cli.local import watchdog
from cli.local.supervisor import Child, Supervisor
from tests.support.servers import RedisServer, wait_until
from workers.dispatch.rq_worker import create_worker
from workers.reporting.heartbeats import read_workers
from workers.runtime import Runtime
from workers.telemetry.progress import STALLED_AFTER_S

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setattr(supervising, "RESTART_PAUSE_MAX_S", 0.3)
    made = Supervisor(tmp_path / "pids")
    yield made
    made.stop(timeout_s=10)


def kill(child: Child) -> None:
    assert child.process is not None
    child.process.kill()
    child.process.wait()


def is_replaced(supervisor: Supervisor, child: Child, before: int | None) -> bool:
    supervisor.restart_exited()
    return child.pid not in {None, before}


def test_a_process_is_restarted_even_if_its_pid_cannot_be_recorded(
    supervisor: Supervisor, capfd: pytest.CaptureFixture[str]
) -> None:
    supervisor.add(child := Child("sleeper", SLEEPER, {}))
    supervisor.pids_file.with_suffix(".new").mkdir()  # not writable, like a full disk
    before = child.pid
    kill(child)
    wait_until(lambda: is_replaced(supervisor, child, before), "the process is replaced")
    assert "pid_file.write_failed" in "".join(capfd.readouterr())


def test_a_process_that_cannot_be_started_now_is_started_later(
    supervisor: Supervisor, capfd: pytest.CaptureFixture[str]
) -> None:
    supervisor.add(child := Child("sleeper", SLEEPER, {}))
    supervisor.add(other := Child("other", SLEEPER, {}))
    child.command = ["/no/such/program"]
    kill(child)
    said = ""

    def says_so() -> bool:
        nonlocal said
        supervisor.restart_exited()
        said += "".join(capfd.readouterr())
        return "process.start_failed" in said

    wait_until(says_so, "the warning is shown")
    assert other.pid is not None
    child.command = SLEEPER
    wait_until(lambda: is_replaced(supervisor, child, None), "the process is started")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_process_is_killed_because_redis_does_not_respond(
    supervisor: Supervisor,
    runtime: Runtime,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(watchdog, "START_TIMEOUT_S", 0.0)
    now = [0.0]
    ear = watchdog.HeartbeatProbe(runtime.queue.connection, clock=lambda: now[0])
    supervisor.add(child := Child("dispatcher", SLEEPER, {}))
    before = redis_server.refusals("OOM")
    redis_server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        watchdog.kill_stalled(supervisor, runtime, ear)
        assert redis_server.refusals("OOM") == before + 1
    finally:
        redis_server.command("CONFIG", "SET", "maxmemory", "0")
    now[0] = STALLED_AFTER_S  # Redis accepts heartbeats again; earlier ones were lost
    watchdog.kill_stalled(supervisor, runtime, ear)
    assert "process.stalled" not in "".join(capfd.readouterr())
    now[0] += 1
    watchdog.kill_stalled(supervisor, runtime, ear)
    wait_until(lambda: child.pid is None, "the process is killed")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_process_is_killed_for_the_missing_heartbeat_of_an_earlier_process_with_its_pid(
    supervisor: Supervisor, runtime: Runtime, capfd: pytest.CaptureFixture[str]
) -> None:
    """As after a container restart: process names repeat, except for their random suffix."""
    supervisor.add(child := Child("worker", SLEEPER, {}))
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    for end, beat in (("a", None), ("b", hour_ago)):
        working = create_worker(runtime)
        working.pid, working.name = child.pid, f"worker.{child.pid}.{end}"
        working.register_birth()  # type: ignore[no-untyped-call]
        if beat is not None:
            runtime.queue.connection.hset(working.key, "last_heartbeat", beat)
    watchdog.kill_stalled(supervisor, runtime, watchdog.HeartbeatProbe(runtime.queue.connection))
    assert sorted(each.heartbeat_age_s > 3000 for each in read_workers(runtime) if each.pid == child.pid) == [
        False,
        True,
    ]
    assert "process.stalled" not in "".join(capfd.readouterr())
    runtime.queue.connection.delete(f"rq:worker:worker.{child.pid}.a")
    watchdog.kill_stalled(supervisor, runtime, watchdog.HeartbeatProbe(runtime.queue.connection))
    wait_until(lambda: child.pid is None, "the process is killed when its own heartbeat stops")
