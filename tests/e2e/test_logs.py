"""Logs of real commands: JSON in pipes, readable on a terminal, attributed to their drain, and free of secrets."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import make_url, text
from structlog.contextvars import get_contextvars

from tests.support.events import PROJECT, TENANT, event
from tests.support.harness import append, append_raw, totals
from tests.support.processes import environ_of
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, free_port, wait_until
from tests.support.tiers import first_for
from workers.dispatch.dispatcher import Dispatcher
from workers.drain import drainer
from workers.jobs.lease import Lease
from workers.reporting.heartbeats import read_workers
from workers.runtime import Runtime

UNSPEAKABLE = "unspeakable"
RQ_FLAGS = ("--serializer", "json", "--job-class", "workers.jobs.queue.DrainJob")


@dataclass
class Commands:
    """Commands whose stderr goes to files."""

    environ: dict[str, str]
    folder: Path
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, *command: str, **changed: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{len(self.running)}.log").open("wb") as log:
            process = subprocess.Popen(command, env=self.environ | changed, stdout=log, stderr=log)
        self.running.append(process)
        return process

    def projector(self, *arguments: str, **changed: str) -> "subprocess.Popen[bytes]":
        return self.start(sys.executable, "-m", "cli", *arguments, **changed)

    def text(self) -> str:
        return "".join(file.read_text() for file in sorted(self.folder.glob("*.log")))

    def lines(self) -> list[dict[str, Any]]:
        """Return all log lines; every line must be JSON, except a final error line of a command."""
        lines = [line for line in self.text().splitlines() if not line.startswith("projector: ")]
        found = [json.loads(line) for line in lines]
        for line in found:
            assert {"event", "level", "timestamp"} <= set(line), line
        return found

    def said(self, event_name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == event_name]

    def end(self) -> None:
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            process.wait(30)


@pytest.fixture
def commands(runtime: Runtime, database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Commands]:
    folder = tmp_path / "logs"
    folder.mkdir()
    made = Commands(environ_of(database_url, redis_url), folder)
    yield made
    for process in made.running:
        process.kill()
        process.wait()


def _rename(runtime: Runtime, before: str, after: str) -> None:
    with runtime.writer.begin() as connection:
        connection.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))


def _await_read(runtime: Runtime, entries: int) -> None:
    wait_until(lambda: totals(runtime)["read"] == entries, f"{entries} entries are read", 90)


def test_logs_contain_no_key_or_payload_and_identify_the_drain_of_each_line(
    runtime: Runtime, commands: Commands
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    key = subprocess.run(
        [sys.executable, "-m", "cli", "keys", "create", "--tenant", TENANT],
        check=True,
        capture_output=True,
        text=True,
        env=commands.environ,
    ).stdout.strip()
    commands.projector("api", PORT=url.rpartition(":")[2])
    commands.projector("worker")
    commands.projector("dispatcher")
    append(runtime, event("project.created.v1", {"name": UNSPEAKABLE}))
    append(runtime, event("watchdog.evaluated.v1", {"summary": UNSPEAKABLE}))
    _await_read(runtime, 2)
    append(runtime, event("watchdog.evaluated.v1", {"severity": UNSPEAKABLE}), event() | {"type": UNSPEAKABLE})
    append_raw(runtime, 0, UNSPEAKABLE.encode(), b'{"id": "' + UNSPEAKABLE.encode())
    _await_read(runtime, 6)
    wait_until(lambda: _answers(url), "the API answers")
    _rename(runtime, "activity", "away")
    append(runtime, event("watchdog.evaluated.v1", {"summary": UNSPEAKABLE}))
    wait_until(lambda: commands.said("drain.failed"), "a drain fails")
    header = {"Authorization": f"Bearer {key}", "X-Project-Id": PROJECT}
    assert httpx.get(f"{url}/v1/config/monitoring/activity", headers=header).status_code == 503
    _rename(runtime, "away", "activity")
    _await_read(runtime, 7)
    assert httpx.get(f"{url}/v1/config/monitoring/activity", headers=header).status_code == 200
    wrong = {"Authorization": f"Bearer ss_org_{UNSPEAKABLE}"}
    assert httpx.get(f"{url}/v1/config/projects/{UNSPEAKABLE}/stats", headers=wrong).status_code == 401
    assert httpx.get(f"{url}/metrics").status_code == 200
    commands.end()

    for secret in (UNSPEAKABLE, key, key.rsplit("_", 1)[1], PROJECT):
        assert secret not in commands.text()
    assert len(commands.said("api.unavailable")) == 1
    of_drains = [line for line in commands.lines() if line["event"].startswith("drain.")]
    assert {line["event"] for line in of_drains} >= {"drain.dead_lettered", "drain.failed"}
    assert all(re.fullmatch("[0-9a-f]{12}", line["drain"]) for line in of_drains)
    places = {(line["drain"], line["partition"]) for line in of_drains}
    assert len(places) == len({drain_id for drain_id, _ in places}) > 1  # a drain handles one partition


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("command", first_for(["dispatcher"], ["api", "worker", "dispatcher"]))
def test_each_process_logs_how_it_starts_and_that_it_stops(
    runtime: Runtime, commands: Commands, database_url: str, redis_url: str, command: str
) -> None:
    address = f"127.0.0.1:{free_port()}"
    runtime.stream.redis.config_set("requirepass", UNSPEAKABLE)
    try:
        commands.projector(
            command,
            PORT=address.rpartition(":")[2],
            REDIS_URL=redis_url.replace("://", f"://default:{UNSPEAKABLE}@"),
            DATABASE_URL=commands.environ["DATABASE_URL"].replace("postgres@", f"postgres:{UNSPEAKABLE}@"),
        )
        wait_until(lambda: commands.said("process.started"), "it has started")
        if command == "api":
            wait_until(lambda: _answers(f"http://{address}"), "the API answers")
        if command == "worker":
            wait_until(lambda: [each.state for each in read_workers(runtime)] == ["idle"], "RQ handles signals")
        assert commands.said("process.stopped") == []
        commands.end()
    finally:
        runtime.stream.redis.config_set("requirepass", "")
    database = make_url(database_url)
    host = "" if database_url.startswith("sqlite") else f" at 127.0.0.1:{database.port}"
    (started,) = commands.said("process.started")
    assert {name: value for name, value in started.items() if name not in ("event", "level", "timestamp")} == {
        "process": command,
        "version": version("projector"),
        **({"address": address} if command == "api" else {}),
        "database": f"the database {database.database}{host}",
        "redis": f"Redis at {redis_url.removeprefix('redis://')}",
        "partitions": 4,
    }
    assert [line["process"] for line in commands.said("process.stopped")] == [command]
    assert UNSPEAKABLE not in commands.text()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_log_lines_of_libraries_are_json_too(commands: Commands, redis_server: RedisServer, runtime: Runtime) -> None:
    proxy = Proxy(redis_server.port)
    through = {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0"}
    commands.projector("worker", **through)
    commands.projector("dispatcher", **through)
    append(runtime, event())
    _await_read(runtime, 1)
    proxy.refuse()
    wait_until(lambda: commands.said("dispatcher.outage"), "the dispatcher notices")

    def logged_by_rq() -> bool:
        return any("redis" in line["event"].lower() for line in commands.lines() if line["level"] != "info")

    wait_until(logged_by_rq, "RQ's worker notices the error", 60)
    proxy.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_drains_of_a_plain_rq_worker_log_json(runtime: Runtime, commands: Commands, redis_url: str) -> None:
    append_raw(runtime, 1, b"nonsense")
    Dispatcher(runtime).sweep()
    rq = str(Path(sys.executable).parent / "rq")
    commands.start(rq, "worker", "--burst", "-u", redis_url, *RQ_FLAGS, "projector").wait(60)
    (line,) = [json.loads(line) for line in commands.text().splitlines() if "drain.dead_lettered" in line]
    assert (line["partition"], line["entries"], len(line["drain"])) == (1, 1, 12)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_log_lines_on_a_terminal_are_readable(commands: Commands) -> None:
    ours, theirs = pty.openpty()
    environ = commands.environ | {"REDIS_URL": "redis://127.0.0.1:1/0"}
    process = subprocess.Popen([sys.executable, "-m", "cli", "worker"], env=environ, stderr=theirs)
    try:
        shown = b""
        while b"startup.waiting" not in shown or not shown.endswith(b"\n"):
            shown += os.read(ours, 4096)
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        os.close(ours)
    assert b'{"' not in shown
    assert b"\x1b[" in shown  # in colour


@pytest.mark.first
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_log_context_of_a_drain_ends_with_it(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[dict[str, Any]] = []
    monkeypatch.setattr(drainer, "run", lambda *_: bound.append(get_contextvars()))
    lease = Lease(runtime.queue.connection, 3)
    drainer.drain_with_lease(runtime, 3, lease)
    assert bound == [{"drain": lease.token[:12], "partition": 3}]
    assert get_contextvars() == {}
