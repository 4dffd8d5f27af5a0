"""`projector up` from a user's point of view: printed commands work as pasted, and it survives faults."""

import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx
import psutil
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from redis.exceptions import RedisError
from rq import Worker

from cli.local import demo
from event_stream import Producer
from event_stream.settings import StreamSettings
from event_stream.streams.stream import Stream
from tests.support.deployment import Deployment
from tests.support.events import PROJECT, TENANT, body, event
from tests.support.servers import wait_until
from workers.runtime import redis_client

# Half of the defaults, which is still longer than a busy machine delays heartbeats.
SOON_STALLED = {"cli.local.watchdog.STALLED_AFTER_S": 15.0, "cli.local.watchdog.START_TIMEOUT_S": 30.0}


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path / "data")
    made.start()
    made.await_ready()
    yield made
    made.remove()


@pytest.mark.first
def test_the_demo_prints_curl_lines_that_work_as_pasted_and_ends_cleanly(tmp_path: Path) -> None:
    up = Deployment(tmp_path / "data", "--demo")
    up.start()
    up.await_ready()
    lines = [line for line in up.lines if line.startswith("curl ")]
    assert len(lines) == 6
    for line in lines:
        answer = json.loads(subprocess.run(line, shell=True, check=True, capture_output=True).stdout)
        assert answer["success"] is True
        assert answer["data"]
    stats = json.loads(subprocess.run(lines[0], shell=True, check=True, capture_output=True).stdout)["data"]
    assert (stats["logSourceCount"], stats["notificationChannelCount"], stats["watchdogEnabled"]) == (2, 3, True)
    assert len(stats["dailyTrend"]) > 15
    before = json.loads(up.run("status", "--json"))
    assert sum(p["applied"] > 100 for p in before["partitions"]) >= 4  # at least half of the partitions
    wait_until(lambda: _applied(up) > sum(p["applied"] for p in before["partitions"]), "live traffic arrives")
    assert json.loads(up.run("status", "--json"))["open_dead_letters"] == {}

    running = up.pids(".")
    assert len(running) == 5
    started = time.monotonic()
    assert up.stop() == 0
    assert time.monotonic() - started < 10
    logged = [json.loads(line) for line in up.log.read_text().splitlines()]  # and nothing in another format
    assert "process.killed" not in {line["event"] for line in logged}  # each ended without a signal
    (server_log,) = [Path(line["log"]) for line in logged if line["event"] == "valkey.starting"]
    assert (server_log.parent.parent, "ready to exit" in server_log.read_text()) == (up.directory, True)
    assert not (up.directory / "up.env").exists()
    assert not any(psutil.pid_exists(pid) for pid in running)

    leave_behind(up)
    up.lines.clear()
    up.start()
    up.await_ready()
    wait_until(lambda: "incomplete" not in version_lines(up), "the rows of the other release are rebuilt")
    again = json.loads(up.run("status", "--json"))
    assert again["open_dead_letters"] == {}
    assert sum(p["duplicates"] for p in again["partitions"]) == 0
    grown = sum(p["applied"] for p in again["partitions"]) - sum(p["applied"] for p in before["partitions"])
    assert grown < len(list(demo.history(time.time_ns() // 1000))) / 10  # live traffic, and history of the last minutes
    assert len(json.loads(up.run("keys", "list", "--json"))) == 1
    assert [line for line in up.lines if line.startswith("curl ")] == lines
    assert up.stop(signal.SIGINT) == 0


def test_a_demo_killed_while_it_appends_its_history_appends_only_the_rest(tmp_path: Path) -> None:
    up = Deployment(tmp_path / "data", "--demo")
    up.start()
    history = len(list(demo.history(time.time_ns() // 1000)))
    wait_until(lambda: (up.directory / "up.env").exists() and 0 < _appended(up) < history, "some events are appended")
    assert up.process is not None
    up.process.kill()
    up.process.wait()
    for pid in _left_over(up):
        os.kill(pid, signal.SIGKILL)
    up.start()
    up.await_ready()
    partitions = json.loads(up.run("status", "--json"))["partitions"]
    assert sum(p["duplicates"] for p in partitions) == 0
    assert history <= sum(p["applied"] for p in partitions) < history * 1.1
    assert up.stop() == 0


def _appended(up: Deployment) -> int:
    """Return how many entries all streams have."""
    client: Any = redis_client(up.variables()["REDIS_URL"])
    try:
        return sum(client.xlen(f"events:{{{partition}}}") for partition in range(8))
    except RedisError:
        return 0
    finally:
        client.close()


def _left_over(up: Deployment) -> list[int]:
    return [int(pid) for pid, _ in json.loads((up.directory / "up.pids").read_text())]


def leave_behind(up: Deployment) -> None:
    """Act like a drain of another release."""
    with closing(sqlite3.connect(up.directory / "projector.db")) as database, database:
        changed = "UPDATE projection_version SET versions = replace(versions, 'activity 1', 'activity 1 incomplete')"
        assert database.execute(changed).rowcount == len(demo.TENANTS)


def version_lines(up: Deployment) -> str:
    with closing(sqlite3.connect(up.directory / "projector.db")) as database:
        return str(database.execute("SELECT versions FROM projection_version").fetchall())


def _pings(stream: Stream) -> bool:
    try:
        return bool(stream.redis.ping())
    except RedisError:
        return False


def _is_ready(up: Deployment) -> bool:
    try:
        return up.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _applied(up: Deployment) -> int:
    return sum(partition["applied"] for partition in json.loads(up.run("status", "--json"))["partitions"])


def test_a_foreign_producer_appends_with_the_public_sdk_and_raw_xadd_and_reads_over_http(up: Deployment) -> None:
    assert stat.S_IMODE((up.directory / "up.env").stat().st_mode) == 0o600
    key = up.run("keys", "create", "--tenant", TENANT).strip()
    redis: Any = redis_client(up.variables()["REDIS_URL"])
    partitions = int(redis.get("events:partitions") or 0)
    stream = f"events:{{{crc32(TENANT.encode()) % partitions}}}"

    made = event("project.created.v1")
    attributes = {name: value for name, value in made.items() if name not in ("data", "specversion", "time")}
    cloud_event = CloudEvent(attributes | {"time": datetime.now(UTC)}, made["data"])
    redis.xadd(stream, {"event": JSONFormat().write(cloud_event)})
    last = redis.xadd(stream, {"event": body(event("watchdog.evaluated.v1")), "note": "ignored"})
    redis.xadd(stream, {"event": b"not an event"})
    wait_until(
        lambda: (redis.get(f"{stream}:projected") or b"0") >= last,
        "the last entry is projected",
    )
    assert up.data("/v1/config/projects/checkout-api/stats", key)["analysisCount"] == 0
    found = up.data("/v1/config/monitoring/activity", key, X_Project_Id=PROJECT)
    assert [entry["ruleName"] for entry in found] == ["Checkout error spike"]
    assert "not_json" in up.run("dead-letters", "list")
    dead_letter = json.loads(up.run("dead-letters", "list", "--json"))[0]
    assert up.run("dead-letters", "show", dead_letter["id"][:10], "--body") == "not an event"
    assert up.get("/healthz/projector").status_code == 200
    redis.close()


def test_a_second_up_on_the_folder_is_refused(up: Deployment) -> None:
    second = up.run("up", expect=1)
    assert "another `projector up` runs on" in second
    assert up.get("/readyz").status_code == 200


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        up = Deployment(tmp_path / "data", PORT=str(taken.getsockname()[1]))
        assert "set HOST, PORT" in up.run("up", expect=1)


def test_after_kill_9_the_next_up_ends_the_remaining_processes(up: Deployment) -> None:
    left = up.pids(".")
    assert len(left) >= 4
    assert up.process is not None
    up.process.kill()
    up.process.wait()
    assert all(psutil.pid_exists(pid) for pid in left)
    up.lines.clear()
    up.start()
    up.await_ready()
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in left)
    assert up.get("/readyz").status_code == 200


@pytest.mark.parametrize("victim", ["cli worker", "cli dispatcher", "cli api", "valkey-server"])
def test_every_killed_process_is_restarted_and_nothing_is_lost_or_counted_twice(up: Deployment, victim: str) -> None:
    settings = StreamSettings()
    key = up.run("keys", "create", "--tenant", TENANT, "--project", PROJECT).strip()
    stream = Stream(redis_client(up.variables()["REDIS_URL"]), settings.partitions)
    producer = Producer(stream, settings)
    owner_partition = producer.append(event("project.created.v1")).partition
    many = [producer.prepare(body(event())) for _ in range(20_000)]
    (worker,) = map(psutil.Process, up.pids("cli worker"))
    worker.suspend()
    producer.send(many)
    worker.resume()
    wait_until(lambda: stream.projected([owner_partition])[owner_partition].entries > 1, "the process works")
    assert stream.projected([owner_partition])[owner_partition].entries < 20_001  # it is killed in the middle
    assert up.kill(victim) == 1
    wait_until(lambda: _pings(stream), "Redis answers")
    last = producer.append_many([event() for _ in range(1000)])[-1]
    producer.wait_until_projected(last, timeout_s=90)
    wait_until(lambda: _is_ready(up), "the API answers")
    assert up.data("/v1/config/projects/checkout-api/stats", key)["analysisCount"] == 21_000
    status = json.loads(up.run("status", "--json"))
    owner = status["partitions"][last.partition]
    assert (owner["applied"], owner["lost"], owner["in_flight"]) == (21_001, 0, 0)
    assert owner["added"] == owner["read"] + owner["in_flight"] + owner["lost"]
    assert f'"process": "{victim.rsplit(maxsplit=1)[-1].removesuffix("-server")}"' in up.log.read_text()
    stream.redis.close()


@pytest.mark.parametrize("victim", ["cli dispatcher", "cli api", "valkey-server"])
def test_a_paused_process_is_killed_and_replaced(tmp_path: Path, victim: str) -> None:
    up = Deployment(tmp_path / "data", constants=SOON_STALLED)
    up.start()
    up.await_ready()
    (paused,) = up.pids(victim)
    if victim == "cli dispatcher":
        wait_until(lambda: paused in [each["pid"] for each in _dispatchers(up)], "the process sends a heartbeat")
    os.kill(paused, signal.SIGSTOP)
    wait_until(lambda: up.pids(victim) not in ([paused], []), "the process is replaced", 300)
    assert "process.stalled" in up.log.read_text()
    wait_until(lambda: _is_ready(up), "the API answers")
    settings = StreamSettings()
    stream = Stream(redis_client(up.variables()["REDIS_URL"]), settings.partitions)
    producer = Producer(stream, settings)
    producer.wait_until_projected(producer.append(event()), timeout_s=120)
    stream.redis.close()
    assert up.stop() == 0


def _dispatchers(up: Deployment) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(up.run("status", "--json"))["dispatchers"]
    return found


def test_up_ends_even_if_redis_does_not_respond(up: Deployment) -> None:
    (paused,) = up.pids("valkey-server")
    os.kill(paused, signal.SIGSTOP)
    client = redis_client(up.variables()["REDIS_URL"], timeout_s=1.0, retries=0)
    for _ in range(7):  # longer than the interval of the watchdog
        with pytest.raises(RedisError):
            client.ping()
    client.close()
    started = time.monotonic()
    assert up.stop() == 0
    assert time.monotonic() - started < 14  # 10 s as documented, and more for a busy machine
    assert not psutil.pid_exists(paused)


def test_a_worker_paused_during_its_start_is_killed_and_replaced(tmp_path: Path) -> None:
    up = Deployment(tmp_path / "data", "--workers", "2", constants=SOON_STALLED)
    up.start()
    wait_until(lambda: len(up.pids("cli worker")) == 2, "two workers start", 300)
    first, second = up.pids("cli worker")
    os.kill(first, signal.SIGSTOP)
    up.await_ready()
    stream = Stream(redis_client(up.variables()["REDIS_URL"]), StreamSettings().partitions)
    wait_until(lambda: Worker.count(connection=stream.redis) == 1, "RQ has registered the other worker")
    os.kill(second, signal.SIGSTOP)
    producer = Producer(stream, StreamSettings())
    producer.wait_until_projected(producer.append(event()), timeout_s=120)
    wait_until(lambda: not {first, second} & set(up.pids("cli worker")), "both are replaced", 300)
    assert up.log.read_text().count('"event": "process.stalled"') == 2
    assert up.stop() == 0
    stream.redis.close()


def test_up_without_a_readable_database_reports_the_error(tmp_path: Path) -> None:
    up = Deployment(tmp_path / "data")
    for name, value, said in (
        ("PROJECTOR_PARTITIONS", "0", "PROJECTOR_PARTITIONS: must be a whole number from 1 to 1024"),
        ("PORT", "http", "PORT: must be a port from 0 to 65535"),
        ("DATABASE_URL", "mysql://root:secret@h/x", "DATABASE_URL: must be sqlite:///path or postgresql"),
        ("REDIS_URL", "http://:secret@h", "REDIS_URL: must be redis://"),
    ):
        up.environ = up.environ | {name: value}
        shown = up.run("up", expect=2)
        assert said in shown
        assert "secret" not in shown
        assert len(shown.splitlines()) == 1
        del up.environ[name]
        up.environ["PORT"] = str(up.port)
