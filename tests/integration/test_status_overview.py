"""What `projector status` shows in addition to health: rates and tenants, with bounded work."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections import Counter
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event

from cli.rendering.status_screen import StatusScreen
from cli.rendering.svg import render_svg
from event_stream.events.event import partition_of
from tests.support.commands import run_command
from tests.support.events import TENANT, event
from tests.support.harness import append, append_raw, drain_all
from tests.support.metrics_scrape import scrape
from tests.support.processes import environ_of
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, wait_until
from workers.drain.drainer import Drainer
from workers.reporting import tenants as reading
from workers.reporting.overview import Overview, read_overview
from workers.runtime import Runtime
from workers.telemetry.apply_rates import BUCKET_COUNT, BUCKET_S, Rate, read_rates
from workers.telemetry.batch_metrics import CommittedBatch
from workers.telemetry.progress import record_batch

TENANT_PARTITION = partition_of(TENANT, 4)
RATE_KEY = f"projector:applied-per-10s:{{{TENANT_PARTITION}}}"
only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def rate_at(runtime: Runtime, now_ms: int) -> Rate:
    return read_rates(runtime.queue.connection, 4, now_ms)[TENANT_PARTITION]


def rate(runtime: Runtime) -> Rate:
    return rate_at(runtime, runtime.stream.now_ms())


def note(runtime: Runtime, applied: int) -> None:
    record_batch(
        runtime.queue.connection,
        TENANT_PARTITION,
        CommittedBatch(applied, {}, batch_us=1, commit_us=1, applied=applied),
    )


def bucket(runtime: Runtime) -> int:
    return runtime.stream.now_ms() // (BUCKET_S * 1000)


@only_sqlite
def test_applied_events_count_in_the_rate_and_duplicates_do_not(runtime: Runtime) -> None:
    made = [event() for _ in range(30)]
    append(runtime, *made, *made)
    drain_all(runtime)
    found = rate(runtime)
    assert found.events_last_10_min == 30
    assert 0.5 <= found.events_per_s <= 0.6  # of the last 50 to 60 s
    assert [each.events_last_10_min for each in read_overview(runtime).rates] == [
        30 * (number == TENANT_PARTITION) for number in range(4)
    ]


@only_sqlite
def test_a_rate_falls_to_zero_and_leaves_the_history_after_ten_minutes(runtime: Runtime) -> None:
    note(runtime, 60)
    now_ms = runtime.stream.now_ms()
    soon, later, late = (rate_at(runtime, now_ms + after_s * 1000) for after_s in (20, 120, 590))
    assert (sum(soon.history[-3:]), soon.events_last_10_min) == (60, 60)
    assert 1.0 <= soon.events_per_s <= 1.2
    assert (later.events_per_s, later.events_last_10_min, sum(later.history)) == (0.0, 60, 60)
    assert sum(late.history[:2]) == 60
    assert rate_at(runtime, now_ms + 3_600_000) == Rate(
        partition=TENANT_PARTITION, events_per_s=0.0, events_last_10_min=0, history=[0] * BUCKET_COUNT
    )


@only_sqlite
def test_the_history_in_redis_is_bounded_and_expires(runtime: Runtime) -> None:
    redis: Any = runtime.queue.connection
    now = bucket(runtime)
    redis.hset(RATE_KEY, mapping={str(now - back): 1 for back in range(1, 5_000)} | {"last": now - 1})
    note(runtime, 7)
    assert redis.hlen(RATE_KEY) <= BUCKET_COUNT + 2
    assert 0 < redis.ttl(RATE_KEY) <= (BUCKET_COUNT + 1) * BUCKET_S
    assert BUCKET_COUNT + 5 <= rate(runtime).events_last_10_min <= BUCKET_COUNT + 7


@only_sqlite
def test_buckets_from_before_the_clock_was_set_back_are_ignored(runtime: Runtime) -> None:
    redis: Any = runtime.queue.connection
    now = bucket(runtime)
    redis.hset(RATE_KEY, mapping={str(each): 1000 for each in range(now - 40, now + 20)} | {"last": now + 19})
    assert rate(runtime).events_last_10_min == 0
    note(runtime, 7)
    assert (rate(runtime).events_last_10_min, redis.hlen(RATE_KEY)) == (7, 2)


@only_sqlite
def test_a_batch_publishes_its_rate_right_after_its_progress(runtime: Runtime) -> None:
    append(runtime, event())
    with runtime.queue.connection.monitor() as monitor:  # type: ignore[no-untyped-call]
        assert Drainer(runtime, TENANT_PARTITION).step()
        runtime.queue.connection.echo("done")
        seen = []
        for lines in monitor.listen():
            if lines["command"].startswith("ECHO"):
                break
            if lines["client_type"] != "lua":
                seen.append((lines["client_port"], lines["command"].split()[0], lines["command"]))
    (mine,) = [
        index for index, (_, name, _) in enumerate(seen) if name == "EVAL" and "applied-per-10s" in seen[index][2]
    ]
    before, now = seen[mine - 1], seen[mine]
    assert (before[0], before[1]) == (now[0], "EVAL")  # the batch metrics, on the same connection
    assert "projector:batch-metrics" in before[2]


def test_the_tenants_with_most_traffic_are_those_of_the_last_ten_minutes(runtime: Runtime) -> None:
    append(runtime, *(event(tenantid="ten_before") for _ in range(50)))
    drain_all(runtime)
    for key in runtime.queue.connection.scan_iter("projector:applied-per-10s:*"):
        runtime.queue.connection.delete(key)
    sent = {f"ten_{number}": 20 - number for number in range(12)}
    append(runtime, *(event(tenantid=tenant) for tenant, count in sent.items() for _ in range(count)))
    drain_all(runtime)
    found = read_overview(runtime).tenants
    assert found.by_traffic is not None
    assert [each.tenant_id for each in found.by_traffic] == list(sent)[:10]
    assert [round(each.events_per_s * 600) for each in found.by_traffic] == list(sent.values())[:10]
    assert [each.partition for each in found.by_traffic] == [partition_of(tenant, 4) for tenant in list(sent)[:10]]
    assert not found.traffic_is_sample


def test_traffic_beyond_the_sampled_events_is_extrapolated_from_the_newest(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "INSPECTED_MAX", 0)
    monkeypatch.setattr(reading, "INSPECTED_PER_PARTITION_MIN", 10)
    neighbour = next(f"ten_{n}" for n in range(100) if partition_of(f"ten_{n}", 4) == TENANT_PARTITION)
    append(runtime, *(event() for _ in range(90)), *(event(tenantid=neighbour) for _ in range(10)))
    drain_all(runtime)
    found = read_overview(runtime).tenants
    assert found.by_traffic is not None
    assert {each.tenant_id: round(each.events_per_s * 600) for each in found.by_traffic} == {neighbour: 100}
    assert found.traffic_is_sample


def test_the_tenants_with_most_lag_are_found_among_other_entries(runtime: Runtime) -> None:
    append(runtime, event())
    drain_all(runtime)
    bad = [b"", b"\xff\xfe", b"[" * 60_000, b'{"tenantid": 7}', b'{"tenantid": "' + b"x" * 9_000_000 + b'"}']
    append_raw(runtime, TENANT_PARTITION, *bad)
    runtime.stream.redis.xadd(f"events:{{{TENANT_PARTITION}}}", {"other": "field"})
    append(runtime, *(event() for _ in range(30)), *(event(tenantid="ten_other") for _ in range(40)))
    found = read_overview(runtime)
    counted = {(each.tenant_id, each.partition): each.entries for each in found.tenants.by_lag}
    other = partition_of("ten_other", 4)
    assert counted == {(TENANT, TENANT_PARTITION): 30, ("ten_other", other): 40, (None, TENANT_PARTITION): len(bad) + 1}
    assert [each.entries for each in found.tenants.by_lag] == [40, 30, 6]
    assert all(0 <= each.lag_s <= found.partitions[each.partition].lag_s + 60 for each in found.tenants.by_lag)
    assert not found.tenants.lag_is_sample


@only_sqlite
def test_only_the_first_entries_of_a_backlog_are_sampled_and_status_says_so(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "INSPECTED_MAX", 0)
    append(runtime, *(event() for _ in range(250)))
    reads: Counter[int] = Counter()
    read_after = runtime.stream.read_after
    monkeypatch.setattr(
        runtime.stream,
        "read_after",
        lambda p, at, count, **rest: (reads.update({p: count}), read_after(p, at, count, **rest))[1],
    )
    found = read_overview(runtime).tenants
    assert [(each.tenant_id, each.entries) for each in found.by_lag] == [(TENANT, reading.INSPECTED_PER_PARTITION_MIN)]
    assert found.lag_is_sample
    assert set(reads) == {TENANT_PARTITION}
    assert reads[TENANT_PARTITION] == reading.INSPECTED_PER_PARTITION_MIN


@only_sqlite
def test_sampling_a_backlog_of_large_entries_is_bounded_in_bytes(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "INSPECTED_BYTES_MAX", 100_000)
    append(runtime, *(event(pad="x" * 2_000) for _ in range(250)))
    found = read_overview(runtime).tenants
    (sampled,) = found.by_lag
    assert 30 < sampled.entries < 50
    assert found.lag_is_sample


def test_health_and_metrics_do_not_compute_rates_and_tenants(runtime: Runtime) -> None:
    append(runtime, event())
    drain_all(runtime)
    append(runtime, event())
    asked: list[str] = []
    sqlalchemy_event.listen(runtime.reader, "before_cursor_execute", lambda *given: asked.append(given[2]))
    assert TENANT not in scrape(runtime).text
    assert asked
    assert not any("event_log" in statement for statement in asked)
    read_overview(runtime)
    assert any("event_log" in statement for statement in asked)


@only_sqlite
def test_a_screenshot_loads_no_fonts_from_a_server(runtime: Runtime) -> None:
    drawn = render_svg(StatusScreen(read_overview(runtime)))
    assert drawn.startswith("<svg")
    assert "font-face" not in drawn
    assert "src:" not in drawn


@pytest.fixture
def environ(runtime: Runtime, database_url: str, redis_url: str) -> dict[str, str]:
    return environ_of(database_url, redis_url)


@only_sqlite
def test_json_output_is_the_model_in_its_order(runtime: Runtime, environ: dict[str, str]) -> None:
    append(runtime, event(), event())
    append_raw(runtime, 0, b"nonsense")
    drain_all(runtime)
    done = run_command(environ, "status", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == [*Overview.model_fields, "health", "problems"]
    assert (found["health"], found["open_dead_letters"]) == ("failing", {"not_json": 1})
    assert [each["tenant_id"] for each in found["tenants"]["by_traffic"]] == [TENANT]
    assert "no worker is alive; start `projector worker`" in found["problems"]


@pytest.mark.full
@only_sqlite
def test_watch_in_a_pipe_prints_repeatedly(environ: dict[str, str]) -> None:
    command = [sys.executable, "-m", "cli", "status", "--watch"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [line for line in (process.stdout.readline() for _ in range(60)) if line.startswith("health: ")]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert len(lines) > 1


class Terminal:
    """A command on a terminal, with its output."""

    def __init__(self, environ: dict[str, str], *arguments: str) -> None:
        self.ours, theirs = pty.openpty()
        size = {"COLUMNS": "100", "LINES": "60", "TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments], env=environ | size, stdout=theirs, stderr=theirs, stdin=theirs
        )
        os.close(theirs)
        self.written = b""
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while more := os.read(self.ours, 65_536):
                self.written += more
        except OSError:  # the other end is closed
            return

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(30)
        os.close(self.ours)
        return code


@pytest.mark.full
@only_sqlite
def test_watch_refreshes_in_place_and_survives_an_outage(
    runtime: Runtime, environ: dict[str, str], redis_server: RedisServer
) -> None:
    proxy = Proxy(redis_server.port)
    terminal = Terminal(environ | {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0"}, "status", "--watch")
    try:
        wait_until(lambda: b"Partitions" in terminal.written, "the screen is shown", 60)
        assert b"\x1b[?1049h" in terminal.written  # the terminal's alternate screen
        append_raw(runtime, TENANT_PARTITION, b"nonsense")
        drain_all(runtime)
        wait_until(lambda: b"not_json" in terminal.written, "the screen is refreshed", 60)
        proxy.close()
        wait_until(lambda: b"last status, read at" in terminal.written, "the outage is shown", 60)
        assert terminal.process.poll() is None
    finally:
        code = terminal.end()
    assert code == 0
    assert b"\x1b[?1049l" in terminal.written
