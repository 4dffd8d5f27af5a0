"""Nobody reads the logs, so the pipe is full: all processes continue, stop in time, and their lines come later."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from tests.support.commands import run_command
from tests.support.deployment import Deployment
from tests.support.events import TENANT, event
from tests.support.full_pipe import FullPipe
from tests.support.harness import append, append_raw, totals
from tests.support.processes import environ_of
from tests.support.servers import free_port, wait_until
from workers.runtime import Runtime

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def pipe() -> Iterator[FullPipe]:
    with FullPipe() as made:
        yield made


def _status(url: str, key: str) -> int:
    header = {"Authorization": f"Bearer {key}"}
    try:
        return httpx.get(f"{url}/v1/config/projects/checkout-api/stats", headers=header).status_code
    except httpx.TransportError:
        return 0


def _events(pipe: FullPipe) -> set[str]:
    return {json.loads(line)["event"] for line in pipe.lines()}


def _rename(runtime: Runtime, before: str, after: str) -> None:
    with runtime.writer.begin() as connection:
        connection.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))


@on_sqlite
def test_processes_whose_logs_nobody_reads_work_stop_in_time_and_lose_no_line(
    runtime: Runtime, database_url: str, redis_url: str, pipe: FullPipe
) -> None:
    port = free_port()
    environ = environ_of(database_url, redis_url) | {"PORT": str(port)}
    key = run_command(environ, "keys", "create", "--tenant", TENANT).stdout.strip()
    api, dispatcher, worker = running = [
        subprocess.Popen([sys.executable, "-m", "cli", name], env=environ, stdout=pipe.writer, stderr=pipe.writer)
        for name in ("api", "dispatcher", "worker")
    ]
    try:
        append_raw(runtime, 0, b"nonsense")  # the worker logs a dead letter
        append(runtime, event("project.created.v1"))
        wait_until(lambda: totals(runtime)["read"] == 2, "both entries are read")
        append_raw(runtime, 0, b"more")
        append(runtime, event("watchdog.evaluated.v1"))
        wait_until(lambda: totals(runtime)["read"] == 4, "the drain continues after its line")
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _status(url, key) == 200, "the API answers")
        _rename(runtime, "project", "away")
        wait_until(lambda: _status(url, key) == 503, "the API logs an error")
        _rename(runtime, "away", "project")
        assert _status(url, key) == 200
        assert not pipe.is_writable()
        for process in (api, dispatcher):
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        assert not pipe.is_writable()
        # From here on, the test reads.
        wait_until(lambda: "drain.dead_lettered" in _events(pipe), "the worker's lines arrive")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_up_whose_output_nobody_reads_serves_and_stops_in_time(tmp_path: Path, pipe: FullPipe) -> None:
    up = Deployment(tmp_path / "data")
    up.process = subprocess.Popen(up.command, env=up.environ, stdout=pipe.writer, stderr=pipe.writer, text=True)
    try:
        wait_until(lambda: _is_ready(up), "the API becomes ready")
        os.kill(up.pids("valkey-server")[0], signal.SIGTERM)  # it logs that, and again when it starts
        wait_until(lambda: up.pids("valkey-server") != [] and _is_ready(up), "Valkey is restarted")
        assert not pipe.is_writable()
        assert up.stop() == 0
    finally:
        up.remove()
    assert "process.killed" not in "".join(pipe.lines())


def test_a_wrong_setting_ends_a_process_whose_stderr_is_full(pipe: FullPipe) -> None:
    environ = os.environ | {"REDIS_URL": "wrong", "PROJECTOR_DATA_DIR": "/nonexistent"}
    process = subprocess.Popen([sys.executable, "-m", "cli", "worker"], env=environ, stderr=pipe.writer)
    try:
        assert process.wait(30) == 2
    finally:
        process.kill()
        process.wait()
    assert not pipe.is_writable()


def _is_ready(up: Deployment) -> bool:
    try:
        return up.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
