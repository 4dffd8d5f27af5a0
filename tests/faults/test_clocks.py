"""Wrong clocks, clock changes and the edges of time windows: answers still equal the oracle's."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import anyio
import pytest
import sqlalchemy
from sqlalchemy import Engine

from event_stream import Producer
from event_stream.events.event import partition_of
from event_stream.events.rfc3339 import format_time
from projections.database.clock import read_clock_ms
from tests.support.api_client import Api
from tests.support.events import DAY_US, NOW_US, PROJECT, TENANT, body, event, mixed
from tests.support.harness import append, checkpoints, drain_all, stored_dead_letters, totals
from tests.support.invariants import assert_fully_projected, assert_reads_equal
from tests.support.processes import Start
from tests.support.servers import wait_until
from workers.dispatch.dispatcher import Dispatcher
from workers.drain import clocks
from workers.drain.drainer import Drainer
from workers.jobs.lease import Lease
from workers.reporting.heartbeats import read_workers
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime

TENANT_PARTITION = partition_of(TENANT, 4)
SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
TEN_MINUTES_S = 600
STATS = "/v1/config/projects/checkout-api/stats"
ACTIVITY = "/v1/config/monitoring/activity"
TODAYS = (
    *("2023-03-01", "2023-03-31", "2023-05-01"),  # the edges of months
    *(
        "2024-02-28",
        "2024-02-29",
        "2024-03-01",
        "2024-03-29",
        "2024-03-30",
    ),  # a leap day is today, the first day, and just outside
    *("2023-12-31", "2024-01-01", "2024-01-15", "2024-01-29", "2024-01-30"),  # a year ends in the window
)


@pytest.fixture
def api(runtime: Runtime) -> Iterator[Api]:
    made = Api(runtime.writer, runtime.reader)
    yield made
    made.close()


def append_at(runtime: Runtime, *moments_and_events: tuple[int, dict[str, Any]]) -> None:
    """Append events as if at the given times (microseconds since 1970), oldest first."""
    pipe = runtime.stream.redis.pipeline(transaction=False)
    for number, (at_us, made) in enumerate(moments_and_events, start=1):
        key = f"events:{{{partition_of(made['tenantid'], 4)}}}"
        pipe.xadd(key, {"event": body(made)}, id=f"{at_us // 1000}-{number}")
    pipe.execute()


def micros(day: str) -> int:
    """Return the first microsecond of a day."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * SECOND_US


def ask(api: Api, path: str, project: str = PROJECT) -> Any:
    async def call() -> Any:
        return await api.data(path, api.key(TENANT), X_Project_Id=project)

    return anyio.run(call)


def is_drained(runtime: Runtime) -> bool:
    ends = zip(checkpoints(runtime), runtime.stream.ends(), strict=True)
    return all(end.position in (None, at.position) for at, end in ends)


def test_wrong_clocks_of_workers_and_dispatchers_change_no_decision_and_no_answer(
    runtime: Runtime, start: Start
) -> None:
    ahead = [event(time=format_time(runtime.stream.now_ms() * 1000 + 240 * SECOND_US)) for _ in range(100)]
    too_far = event(time=format_time(runtime.stream.now_ms() * 1000 + 900 * SECOND_US))
    made = [*mixed(4000, tenants=12), *ahead, event("project.created.v1")]
    start("tests.support.wrong_clock", str(TEN_MINUTES_S), "dispatcher")
    start("tests.support.wrong_clock", str(-TEN_MINUTES_S), "worker")
    wait_until(lambda: len(read_workers(runtime)) == 1, "one worker waits for jobs", 120)
    append(runtime, *made[:2000])
    wait_until(lambda: totals(runtime)["read"] > 0, "the process works", 120)
    # It first cleans up jobs that, by its clock, were abandoned ten minutes ago.
    start("tests.support.wrong_clock", str(TEN_MINUTES_S), "worker")
    wait_until(lambda: len(read_workers(runtime)) == 2, "both wait for jobs", 120)
    wait_until(lambda: not any(each.stalled for each in read_workers(runtime)), "both send heartbeats", 120)
    append(runtime, *made[2000:], too_far, *made[:50])
    wait_until(lambda: is_drained(runtime), "everything is drained", 120)
    beats: list[Any] = [
        runtime.queue.connection.hget(key, "last_heartbeat") for key in runtime.queue.connection.smembers("rq:workers")
    ]
    now = datetime.now(UTC)
    off_s = sorted((datetime.fromisoformat(beat.decode()) - now).total_seconds() for beat in beats)
    assert off_s[0] < -TEN_MINUTES_S / 2
    assert off_s[1] > TEN_MINUTES_S / 2
    assert assert_fully_projected(runtime, made)["duplicates"] == 50
    assert [dead_letter.reason for dead_letter in stored_dead_letters(runtime)] == ["time_in_future"]
    assert stored_dead_letters(runtime)[0].event_id == too_far["id"]


def test_a_wrong_clock_of_the_api_moves_the_edges_of_the_windows_only(runtime: Runtime) -> None:
    made = list(mixed(1500))
    append(runtime, *made)
    drain_all(runtime)
    for off_s in (-TEN_MINUTES_S, 0, TEN_MINUTES_S):
        for hours in (1, 720):
            assert_reads_equal(runtime, made, NOW_US + off_s * SECOND_US, hours)


@pytest.mark.first
def test_windows_are_right_at_the_edges_of_days_months_years_and_on_a_leap_day(runtime: Runtime, api: Api) -> None:
    """For each tested date: analyses in the first and the last microsecond of the days before it."""
    made: list[tuple[int, dict[str, Any]]] = []
    projects = {today: str(UUID(int=number, version=4)) for number, today in enumerate(TODAYS, start=1)}
    for today, project in projects.items():
        first_us = micros(today)
        moments = [first_us + days * DAY_US + edge for days in range(-30, 1) for edge in (0, DAY_US - 1)]
        named = event("project.created.v1", {"slug": f"on-{today}"}, projectid=project, time=format_time(moments[0]))
        made.append((moments[0], named))
        made += [(at_us, event(projectid=project, time=format_time(at_us))) for at_us in moments]
    made.sort(key=lambda each: each[0])
    append_at(runtime, *made)
    drain_all(runtime)
    events = [each for _, each in made]
    assert_fully_projected(runtime, events)
    for today, project in projects.items():
        for api.now_us in (micros(today), micros(today) + DAY_US - 1):
            stats = ask(api, f"/v1/config/projects/on-{today}/stats", project)
            days = [(datetime.fromisoformat(today) - timedelta(days=ago)).date() for ago in range(29, -1, -1)]
            # The microsecond before the first of these days is out.
            assert stats["dailyTrend"] == [{"date": day.isoformat(), "count": 2} for day in days]
            assert stats["analysisCount"] == 60
            assert_reads_equal(runtime, events, api.now_us)
        api.now_us = micros(today) + DAY_US
        assert ask(api, f"/v1/config/projects/on-{today}/stats", project)["analysisCount"] == 58


@pytest.mark.first
def test_the_edges_of_the_thirty_days_are_exact_to_the_microsecond(runtime: Runtime, api: Api) -> None:
    today = micros("2024-03-29")
    first = today - 29 * DAY_US
    made = [event("project.created.v1", time=format_time(first - HOUR_US))]
    made += [event(time=format_time(at_us)) for at_us in (first - 1, first, today + DAY_US - 1)]
    append_at(runtime, *[(today + DAY_US, each) for each in made])
    drain_all(runtime)
    api.now_us = today + DAY_US - 1
    trend = ask(api, STATS)["dailyTrend"]
    assert trend == [{"date": "2024-02-29", "count": 1}, {"date": "2024-03-29", "count": 1}]
    assert_fully_projected(runtime, made, api.now_us)


@pytest.mark.first
@pytest.mark.parametrize("hours", [1, 24, 720])
def test_the_edge_of_the_hours_is_exact_to_the_microsecond(runtime: Runtime, api: Api, hours: int) -> None:
    edge = NOW_US - hours * HOUR_US
    made = [event("project.created.v1", time=format_time(edge - 1))]
    shown = ["just out", "just in", "now"]
    for at_us, name in zip((edge, edge + 1, NOW_US), shown, strict=True):
        made.append(event("watchdog.evaluated.v1", {"ruleName": name}, time=format_time(at_us)))
    append(runtime, *made)
    drain_all(runtime)
    found = ask(api, f"{ACTIVITY}?hours={hours}")
    assert [entry["ruleName"] for entry in found] == ["now", "just in"]
    api.now_us = NOW_US - 1
    assert [entry["ruleName"] for entry in ask(api, f"{ACTIVITY}?hours={hours}")] == ["now", "just in", "just out"]
    assert_fully_projected(runtime, made, NOW_US, hours)


def test_midnight_between_append_and_projection_moves_no_event_to_another_day(runtime: Runtime, api: Api) -> None:
    midnight = micros("2023-07-01")
    made = [event("project.created.v1", time=format_time(midnight - HOUR_US))]
    made += [event(time=format_time(at_us)) for at_us in (midnight - 1, midnight, midnight + 120 * SECOND_US)]
    append_at(runtime, *[(midnight - 60 * SECOND_US, each) for each in made])
    drain_all(runtime)
    api.now_us = midnight - 1
    assert ask(api, STATS)["dailyTrend"] == [{"date": "2023-06-30", "count": 1}]
    api.now_us = midnight
    assert ask(api, STATS)["dailyTrend"] == [{"date": "2023-06-30", "count": 1}, {"date": "2023-07-01", "count": 2}]
    for now_us in (midnight - 1, midnight, midnight + 29 * DAY_US, midnight + 30 * DAY_US):
        assert_fully_projected(runtime, made, now_us)


def test_after_forty_days_without_a_worker_the_answers_are_those_of_today(runtime: Runtime) -> None:
    made = sorted(mixed(3000), key=lambda each: each["time"])
    oldest = datetime.fromisoformat(made[0]["time"])
    assert NOW_US - oldest.timestamp() * SECOND_US > 39 * DAY_US
    append_at(runtime, *[(int(datetime.fromisoformat(each["time"]).timestamp()) * SECOND_US, each) for each in made])
    assert max(each.lag_s for each in read_status(runtime).partitions) > 39 * 86_400
    drain_all(runtime)
    assert_fully_projected(runtime, made)
    assert_reads_equal(runtime, made, NOW_US + 20 * DAY_US)
    assert stored_dead_letters(runtime) == []


def test_events_from_clocks_ahead_of_ours_are_accepted_within_the_allowed_skew_and_shown(
    runtime: Runtime, api: Api
) -> None:
    ahead_us = runtime.stream.now_ms() * 1000 + 240 * SECOND_US
    made = [event("project.created.v1")]
    made += [event("watchdog.evaluated.v1", time=format_time(ahead_us + number)) for number in range(100)]
    append(runtime, *made)
    drain_all(runtime)
    assert stored_dead_letters(runtime) == []
    assert len(ask(api, f"{ACTIVITY}?hours=1")) == 100
    assert_fully_projected(runtime, made, NOW_US, hours=1)
    assert_fully_projected(runtime, made, ahead_us + HOUR_US, hours=1)  # the first has just left the window
    api.now_us = ahead_us + HOUR_US
    assert len(ask(api, f"{ACTIVITY}?hours=1")) == 99


@pytest.mark.first
def test_the_limit_of_the_skew_is_exact_to_the_microsecond(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    at_us = NOW_US // 1000 * 1000 + 365 * DAY_US
    set_worker_clock(monkeypatch, lambda: at_us / SECOND_US)
    within, beyond = (event(time=format_time(at_us + 300 * SECOND_US + more)) for more in (0, 1))
    append_at(runtime, (at_us, within), (at_us, beyond), (at_us, event("project.created.v1")))
    drain_all(runtime)
    assert [(dead_letter.reason, dead_letter.event_id) for dead_letter in stored_dead_letters(runtime)] == [
        ("time_in_future", beyond["id"])
    ]
    assert totals(runtime)["applied"] == 2
    set_worker_clock(monkeypatch, lambda: (at_us + 1000) / SECOND_US)
    append_at(runtime, (at_us + 1000, beyond))  # a millisecond later it is no longer in the future
    drain_all(runtime)
    assert [dead_letter.state for dead_letter in stored_dead_letters(runtime)] == ["applied"]
    assert totals(runtime)["applied"] == 3


@pytest.mark.first
@pytest.mark.parametrize("off_s", [-86_400, -TEN_MINUTES_S, TEN_MINUTES_S, 86_400])
@pytest.mark.parametrize("clock", ["redis", "database", "worker"])
def test_a_single_wrong_clock_parks_no_valid_event_and_accepts_none_of_the_future(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, clock: str, off_s: int
) -> None:
    """The wrong clock of Redis shows in the ids of the entries only."""
    entries_off_us = off_s * SECOND_US if clock == "redis" else 0
    if clock == "database":
        set_database_clock(runtime.reader, off_s)
    if clock == "worker":
        set_worker_clock(monkeypatch, lambda: time.time() + off_s)
    now_us = time.time_ns() // 1000
    valid = [event(time=format_time(now_us + ahead_s * SECOND_US)) for ahead_s in (-1, 0, 240) for _ in range(50)]
    future = [event(time=format_time(now_us + DAY_US * days + TEN_MINUTES_S * SECOND_US)) for days in (0, 1, 60_000)]
    append_at(runtime, *((now_us + entries_off_us + number, each) for number, each in enumerate([*valid, *future])))
    with runtime.reader.connect() as connection:
        difference_s = read_clock_ms(connection) / 1000 - time.time()
    assert difference_s == pytest.approx(off_s if clock == "database" else 0, abs=TEN_MINUTES_S / 2)
    drain_all(runtime)
    assert {each.event_id for each in stored_dead_letters(runtime)} == {each["id"] for each in future}
    assert {each.reason for each in stored_dead_letters(runtime)} == {"time_in_future"}
    assert totals(runtime)["applied"] == len(valid)


@pytest.mark.first
def test_an_entry_id_far_ahead_does_not_vouch_for_an_event_of_the_future(runtime: Runtime) -> None:
    """A client may choose the id. Afterwards Redis issues no smaller one, so all later ids are as far ahead."""
    key = f"events:{{{TENANT_PARTITION}}}"
    far = event(time="2200-01-01T00:00:00Z")
    append(runtime, event())
    runtime.stream.redis.xadd(key, {"event": body(far)}, id="9999999999999-0")
    append(runtime, event(), event(time="2199-01-01T00:00:00Z"), event())
    drain_all(runtime)
    first, second = stored_dead_letters(runtime)
    assert (first.reason, first.event_id, second.reason) == ("time_in_future", far["id"], "time_in_future")
    assert first.detail.startswith("time: 2200-01-01T00:00:00Z is more than 300 s ahead of now, 20")
    assert "by two of three clocks: the entry's id 2286-11-20T17:46:39.999Z, the database 20" in first.detail
    assert totals(runtime)["applied"] == 3


@pytest.mark.first
def test_the_clock_of_the_database_is_read_only_if_an_event_may_be_in_the_future_and_once_a_batch(
    runtime: Runtime,
) -> None:
    reads: list[str] = []

    @sqlalchemy.event.listens_for(runtime.reader, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "clock_timestamp" in statement or "julianday" in statement:
            reads.append(statement)

    append(runtime, *(event() for _ in range(300)))
    drain_all(runtime)
    assert reads == []
    append(runtime, *(event(time="2200-01-01T00:00:00Z") for _ in range(100)))
    drainer = Drainer(runtime, TENANT_PARTITION)
    batches = 1
    while not drainer.step():
        batches += 1
    assert len(stored_dead_letters(runtime)) == 100
    assert len(reads) == batches < 10


def test_batches_that_are_prefetched_are_held_against_the_clock_of_the_database_too(runtime: Runtime) -> None:
    late_us = NOW_US - DAY_US
    made = [event(time=format_time(NOW_US)) for _ in range(3000)]
    future = event(time="2200-01-01T00:00:00Z")
    append_at(runtime, *((late_us + number, each) for number, each in enumerate([*made, future, event()])))
    drain_all(runtime)
    assert [each.event_id for each in stored_dead_letters(runtime)] == [future["id"]]
    assert totals(runtime)["applied"] == 3001


def set_worker_clock(monkeypatch: pytest.MonkeyPatch, read_s: Callable[[], float]) -> None:
    monkeypatch.setattr(clocks, "time", SimpleNamespace(time=read_s))


def set_database_clock(engine: Engine, off_s: int) -> None:
    """Set the clock of the database that connections of this engine see."""

    @sqlalchemy.event.listens_for(engine, "connect")
    def shift(connection: Any, _record: object) -> None:
        if engine.dialect.name == "sqlite":
            days_at = {"now": lambda: 2440587.5 + (time.time() + off_s) / 86_400, "1970-01-01": lambda: 2440587.5}
            connection.create_function("julianday", 1, lambda text: days_at[text]())
            return
        connection.autocommit = True
        connection.execute("CREATE SCHEMA IF NOT EXISTS wrong_clock")
        connection.execute(
            "CREATE OR REPLACE FUNCTION wrong_clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS"
            f" $$SELECT pg_catalog.clock_timestamp() + interval '{off_s} s'$$"
        )
        connection.execute("SET search_path = wrong_clock, pg_catalog, public")
        connection.autocommit = False

    engine.dispose()


def test_a_redis_clock_that_is_set_back_stops_nothing(runtime: Runtime) -> None:
    """Redis never issues an id below its last one: until its clock catches up, only the sequence number increases."""
    ahead_us = NOW_US + HOUR_US
    first = event("project.created.v1")
    append_at(runtime, (ahead_us, first))
    drain_all(runtime)
    producer = Producer(runtime.stream, runtime.settings)
    made = [event() for _ in range(300)]
    positions = producer.append_many(made)
    assert {each.position.ms for each in positions} == {ahead_us // 1000}
    drain_all(runtime)
    producer.wait_until_projected(positions[-1], timeout_s=30)
    assert checkpoints(runtime)[TENANT_PARTITION].epoch == 0
    assert stored_dead_letters(runtime) == []
    assert_fully_projected(runtime, [first, *made])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_lease_of_a_dead_drain_expires_on_time_even_if_the_redis_clock_is_set_back(runtime: Runtime) -> None:
    """Redis stores absolute expiry times: with its clock an hour back, a lease of seconds lasts an hour."""
    connection: Any = runtime.queue.connection
    assert Lease(connection, TENANT_PARTITION).acquire()
    append(runtime, event())
    connection.pexpire(f"projector:drain-lease:{{{TENANT_PARTITION}}}", HOUR_US // 1000)

    def is_enqueued() -> bool:
        Dispatcher(runtime).sweep()
        return runtime.queue.count == 1

    assert not is_enqueued()
    wait_until(is_enqueued, "a drain is enqueued again", 120)
