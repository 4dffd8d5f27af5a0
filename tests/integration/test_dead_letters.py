"""Dead letters are bounded: per tenant and reason, in time, and in what they cost a drain."""

import json
import re
import time
from collections import Counter
from dataclasses import replace
from threading import Thread

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.event import listen

from event_stream.errors import Reason
from event_stream.events.event import partition_of
from event_stream.streams.entries import Position
from projections.lifecycle import dead_letter_admin
from projections.lifecycle.dead_letter_admin import Discarded, Selection
from projections.settings import DeadLetterSettings
from projections.transaction import dead_letters
from projections.transaction.dead_letters import DeadLetter, table
from tests.support.alerts import firing
from tests.support.commands import run_command
from tests.support.events import TENANT, body, event
from tests.support.harness import (
    append,
    append_raw,
    assert_dead_letters_are_counted,
    drain_all,
    stored_dead_letters,
    totals,
)
from tests.support.metrics_scrape import scrape
from workers.dispatch import dead_letter_expiry
from workers.dispatch.dispatcher import Dispatcher
from workers.drain.batch_size import BatchSize
from workers.drain.drainer import Drainer, run
from workers.jobs.lease import Lease
from workers.maintenance.replay import ClosedDeadLetterError, replay
from workers.reporting.problems import all_problems, open_circuit_breaker
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime

pytestmark = pytest.mark.both_databases

TENANT_PARTITION = partition_of(TENANT, 4)
DAY_US = 86_400_000_000


def limited(runtime: Runtime, kept_max: int) -> Runtime:
    return replace(runtime, dead_letters=DeadLetterSettings(kept_max=kept_max))


def invalid(number: int, tenant: str = TENANT) -> dict[str, object]:
    return event("log_source.added.v1", {"logSourceId": number}, tenantid=tenant)


def states(runtime: Runtime) -> Counter[str]:
    return Counter(each.state for each in stored_dead_letters(runtime))


def test_above_the_limit_only_the_newest_dead_letters_of_a_tenant_and_reason_are_kept(runtime: Runtime) -> None:
    sent = [invalid(number) for number in range(8)]
    append(runtime, invalid(0, "ten_other"), event() | {"time": "soon"})
    for each in sent:
        append(runtime, each)
        time.sleep(0.002)  # so that each has a position of its own millisecond, by which "newest" is decided
    drain_all(limited(runtime, kept_max=3))
    kept = {(each.reason, each.tenant_id, each.event_id) for each in stored_dead_letters(runtime)}
    assert {each for each in kept if each[:2] == ("invalid_data", TENANT)} == {
        ("invalid_data", TENANT, each["id"]) for each in sent[5:]
    }
    assert {(reason, tenant) for reason, tenant, _ in kept} == {
        ("invalid_data", TENANT),
        ("invalid_data", "ten_other"),  # another tenant's dead letters stay
        ("not_an_event", TENANT),  # and so do those with another reason
    }
    status = read_status(runtime)
    assert status.open_dead_letters == {"invalid_data": 9, "not_an_event": 1}
    assert status.dead_letters_not_kept == {"invalid_data": 5}
    assert any("(5 of them are only counted)" in problem for problem in all_problems(status))
    assert_dead_letters_are_counted(runtime)


def test_entries_that_name_no_tenant_are_limited_by_partition(runtime: Runtime) -> None:
    append_raw(runtime, 0, b"first")
    append_raw(runtime, 1, *(b"rubbish %d" % number for number in range(20)))
    drain_all(limited(runtime, kept_max=2))
    assert Counter(each.partition for each in stored_dead_letters(runtime)) == {0: 1, 1: 2}
    assert read_status(runtime).dead_letters_not_kept == {"not_json": 18}


def test_the_breaker_opens_before_an_event_that_an_upgrade_would_apply_is_dropped(runtime: Runtime) -> None:
    small = limited(runtime, kept_max=2)
    unknown = [event() | {"type": "analysis.created.v9"} for _ in range(3)]
    append(runtime, *unknown[:2], event(), event(), unknown[2], event())
    drainer = Drainer(small, TENANT_PARTITION, batch_size=BatchSize(count=16))
    run(drainer, Lease(runtime.queue.connection, TENANT_PARTITION), budget_s=20)
    assert totals(runtime) == {"read": 4, "applied": 2, "duplicates": 0, "dead_lettered": 2, "lost": 0}
    assert [each.body for each in stored_dead_letters(runtime)] == [body(each) for each in unknown[:2]]
    (problem,) = open_circuit_breaker(read_status(runtime))
    assert f"3 dead letters of {TENANT} with the reason unknown_type would be open" in problem
    dead_letter_admin.discard(runtime.writer, Selection(reason="unknown_type"))
    runtime.queue.connection.delete(f"projector:drain-lease:{{{TENANT_PARTITION}}}")  # instead of waiting 30 s
    run(drainer, Lease(runtime.queue.connection, TENANT_PARTITION), budget_s=20)
    assert totals(runtime)["applied"] == 3


def test_a_closed_dead_letter_has_no_bytes_and_cannot_be_replayed(runtime: Runtime) -> None:
    append(runtime, event() | {"type": "unknown.v1"})
    append_raw(runtime, 0, b"nonsense")
    drain_all(runtime)
    first, other = stored_dead_letters(runtime)
    assert (first.body, other.closed_us) == (b"nonsense", None)
    assert dead_letter_admin.discard(runtime.writer, Selection(ids=(first.id,))) == Discarded(1, 0)
    (closed,) = (each for each in stored_dead_letters(runtime) if each.state == "discarded")
    assert (closed.body, closed.body_length) == (None, 8)
    assert closed.closed_us is not None
    with pytest.raises(ClosedDeadLetterError, match="its bytes were dropped then; let the producer append the event"):
        replay(runtime, Selection(ids=(first.id, other.id)))
    assert totals(runtime)["read"] == 2
    append_raw(runtime, 0, b"nonsense")  # seen again, so it is open again, with its bytes
    drain_all(runtime)
    again = stored_dead_letters(runtime)[0]
    assert (again.state, again.body, again.closed_us) == ("open", b"nonsense", None)
    assert_dead_letters_are_counted(runtime)


def test_a_command_says_that_the_bytes_of_a_closed_dead_letter_are_gone(
    runtime: Runtime, database_url: str, redis_url: str
) -> None:
    append_raw(runtime, 0, b"nonsense")
    drain_all(runtime)
    environ = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "PROJECTOR_PARTITIONS": "4"}
    id_ = stored_dead_letters(runtime)[0].id
    assert run_command(environ, "dead-letters", "discard", id_).returncode == 0
    for command in (["show", id_, "--body"], ["replay", id_]):
        refused = run_command(environ, "dead-letters", *command)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "its bytes were dropped then" in refused.stderr
    assert "dropped when the dead letter was closed" in run_command(environ, "dead-letters", "show", id_).stdout
    shown = json.loads(run_command(environ, "dead-letters", "show", id_, "--json").stdout)
    assert (shown["state"], shown["bodyBase64"]) == ("discarded", None)


def test_an_interrupted_discard_has_closed_whole_pages_and_can_be_repeated(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(_: int) -> None:
        raise Killed

    monkeypatch.setattr(dead_letter_admin, "KEYS_PAGE_SIZE", 4)
    append(runtime, *(invalid(number) for number in range(10)))
    drain_all(limited(runtime, kept_max=9))
    with pytest.raises(Killed):
        dead_letter_admin.discard(runtime.writer, Selection(), die)
    assert states(runtime) == {"open": 5, "discarded": 4}
    assert_dead_letters_are_counted(runtime)
    pages: list[int] = []
    assert dead_letter_admin.discard(runtime.writer, Selection(), pages.append) == Discarded(closed=5, not_kept=1)
    assert pages == [4, 1]
    assert read_status(runtime).open_dead_letters == {}


def test_dead_letters_that_a_dispatcher_finds_closed_for_too_long_are_deleted(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letter_expiry, "DELETED_AT_ONCE", 2)
    append_raw(runtime, 0, *(b"%d nonsense" % number for number in range(7)), b"open nonsense")
    drain_all(runtime)
    *old, recent, _ = stored_dead_letters(runtime)
    dead_letter_admin.discard(runtime.writer, Selection(ids=tuple(each.id for each in (*old, recent))))
    with runtime.writer.begin() as connection:
        aged = update(table).where(table.c.id.in_([each.id for each in old]))
        connection.execute(aged.values(closed_us=time.time_ns() // 1000 - 31 * DAY_US))
    sweeps = iter(range(5))
    Dispatcher(runtime).run(lambda: next(sweeps, None) is None)
    assert [each.state for each in stored_dead_letters(runtime)] == ["discarded", "open"]
    assert_dead_letters_are_counted(runtime)


def test_dead_letters_parked_by_two_drains_at_once_are_counted_once(runtime: Runtime) -> None:
    same = [b"nonsense %d" % number for number in range(300)]
    for partition in range(4):
        append_raw(runtime, partition, *same)
    drains = [
        Thread(target=run, args=(Drainer(runtime, each), Lease(runtime.queue.connection, each), 15))
        for each in range(4)
    ]
    for drain in drains:
        drain.start()
    for drain in drains:
        drain.join()
    assert totals(runtime)["dead_lettered"] == 1200
    assert sum(each.times_seen for each in stored_dead_letters(runtime)) == 1200
    assert read_status(runtime).open_dead_letters == {"not_json": 300}
    assert_dead_letters_are_counted(runtime)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_statement_of_a_drain_or_status_scans_the_dead_letters(runtime: Runtime) -> None:
    append(runtime, invalid(0), event())
    append_raw(runtime, TENANT_PARTITION, b"nonsense")
    drain_all(runtime)
    statements: list[str] = []
    for engine in (runtime.writer, runtime.reader):
        listen(engine, "before_cursor_execute", lambda _c, _cu, statement, *_: statements.append(statement))
    append(runtime, event(), invalid(1))
    append_raw(runtime, TENANT_PARTITION, b"nonsense", b"other nonsense")
    drain_all(limited(runtime, kept_max=1))
    read_status(runtime)
    of_dead_letters = {each for each in statements if re.search(r"\bdead_letter\b", each)}
    plans = [plan for statement in of_dead_letters for plan in plans_of(runtime.reader, statement)]
    assert len([plan for plan in plans if plan.startswith("SEARCH dead_letter ")]) >= 5
    assert [plan for plan in plans if re.match(r"SCAN dead_letter\b", plan)] == []


def plans_of(engine: Engine, statement: str) -> list[str]:
    """Return the plan of a statement on SQLite."""
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        marks = statement.count("?")
        return [row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}", [1] * marks)]


def test_a_source_that_sends_many_invalid_events_is_named(runtime: Runtime) -> None:
    append(runtime, *(event(source="/faulty") | {"type": "unknown.v1"} for _ in range(101)), event())
    append_raw(runtime, 1, *(b"rubbish %d" % number for number in range(102)))
    append_raw(runtime, 2, b"a little rubbish", body(event(source="/a b", tenantid="ten_other")))
    drain_all(runtime)
    status = read_status(runtime)
    assert [(each.partition, each.source, each.entries) for each in status.dead_letter_sources] == [
        (1, None, 102),
        (TENANT_PARTITION, "/faulty", 101),
        (2, None, 2),
    ]
    scraped = scrape(runtime)
    named = [alert for alert in firing(scraped, scraped) if alert["alertname"] == "ProjectorProducerSendsInvalidEvents"]
    assert {(alert["partition"], alert["source"]) for alert in named} == {("1", ""), (str(TENANT_PARTITION), "/faulty")}
    end = "became dead letters in the last ten minutes; fix that producer"
    assert [problem for problem in all_problems(status) if problem.endswith(end)] == [
        f"102 entries from an unreadable source in partition 1 {end}",
        f"101 entries from source /faulty in partition {TENANT_PARTITION} {end}",
    ]


def test_the_latest_dead_letters_are_listed_first(writer: Engine) -> None:
    parked = [DeadLetter(0, Position(ms, 0), b"%d" % ms, Reason.NOT_JSON, "no JSON") for ms in (5, 1, 4, 2, 3)]
    with writer.begin() as connection:
        dead_letters.park(connection, parked)
    with writer.connect() as connection:
        found = list(dead_letter_admin.iter_latest(connection, Selection(), limit=3))
    assert [each.position.ms for each in found] == [5, 4, 3]
