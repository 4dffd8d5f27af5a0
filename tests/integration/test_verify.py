"""Verification on both databases: any manual change of tables is found, and repaired where the log allows it."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any

import pytest
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty
from sqlalchemy import Connection, Table, delete, insert, select, text, update
from sqlalchemy.exc import OperationalError

from event_stream.events.event import partition_of
from projections.database.columns import Row
from projections.database.fingerprint import fingerprint_of
from projections.lifecycle import tenant_data
from projections.read_models import activity, analysis_trend, project, tenant
from projections.read_models.registry import PROJECTIONS
from projections.transaction import checkpoint_table, event_log
from tests.support.events import body, event, mixed
from tests.support.harness import append, checkpoints, drain_all, dump, totals
from tests.support.invariants import assert_fully_projected
from tests.support.processes import Start
from tests.support.rebuilds import pending, rebuild_all, rebuilder
from tests.support.servers import wait_until
from workers.maintenance import verify_jobs, verify_pass, verify_results
from workers.maintenance.verify_tenants import TenantVerification
from workers.reporting import problems
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime

pytestmark = pytest.mark.both_databases

EVENTS = list(mixed(300, tenants=3, projects=3))
TENANTS = ["ten_0", "ten_1", "ten_2"]


@pytest.fixture
def filled(runtime: Runtime) -> Runtime:
    append(runtime, *EVENTS)
    drain_all(runtime)
    return runtime


def verification(runtime: Runtime, *, folded: bool = True) -> TenantVerification:
    """Return the findings of `projector verify`, or of `projector verify --quick`."""
    with runtime.reader.connect() as connection:
        tenants = tenant_data.tenants_with_data(connection, runtime.projections)
    found = TenantVerification.of(rebuilder(runtime), set())
    for _ in found.compare(tenants, tenants if folded else []):
        pass
    found.verifier.engine.dispose()
    return found


def repaired(found: TenantVerification) -> TenantVerification:
    for _ in found.repair():
        pass
    found.verifier.engine.dispose()
    return found


def key_is(table: Table, row: Row) -> Any:
    return [column == value for column, value in zip(table.primary_key.columns, row, strict=False)]


@dataclass(frozen=True)
class Damage:
    """Damage to the rows of a table, in the order of their keys, and which check finds it."""

    table: Table
    harm: Callable[[Table, Sequence[Row]], list[Any]]
    by_sums: bool
    tenants: tuple[str, ...] = ("ten_0",)


def changed(**columns: Any) -> Callable[[Table, Sequence[Row]], list[Any]]:
    return lambda table, rows: [update(table).where(*key_is(table, rows[0])).values(**columns)]


def gone(table: Table, rows: Sequence[Row]) -> list[Any]:
    return [delete(table).where(*key_is(table, rows[0]))]


def exchanged(table: Table, rows: Sequence[Row]) -> list[Any]:
    """Swap the first row with the first row of another tenant."""
    other = next(row for row in rows if row[0] == "ten_1")
    names = table.columns.keys()[len(table.primary_key.columns) :]
    return [
        update(table).where(*key_is(table, at)).values(dict(zip(names, row[-len(names) :], strict=True)))
        for at, row in ((rows[0], other), (other, rows[0]))
    ]


DAMAGE: dict[str, Damage] = {
    "a wrong count": Damage(analysis_trend.table, changed(total=999), by_sums=False),
    "a stale day": Damage(analysis_trend.table, changed(by_day="[[1,1]]"), by_sums=False),
    "an event counted twice": Damage(
        analysis_trend.table,
        lambda table, rows: [
            update(table)
            .where(*key_is(table, rows[0]))
            .values(
                total=rows[0][2] + 1, event_count=rows[0][-2] + 1, fingerprint=rows[0][-1] + fingerprint_of("0000abcd")
            )
        ],
        by_sums=True,
    ),
    "an event not counted": Damage(
        analysis_trend.table,
        lambda table, rows: [
            update(table).where(*key_is(table, rows[0])).values(total=rows[0][2] - 1, event_count=rows[0][-2] - 1)
        ],
        by_sums=True,
    ),
    "another event counted": Damage(analysis_trend.table, changed(fingerprint=4711), by_sums=True),
    "a missing count": Damage(analysis_trend.table, gone, by_sums=True),
    "a missing project": Damage(project.table, gone, by_sums=True),
    "a missing tenant": Damage(tenant.table, gone, by_sums=True),
    "an edited slug": Damage(project.table, changed(slug="another"), by_sums=False),
    "a project that is gone": Damage(
        project.table,
        lambda table, rows: [
            update(table).where(*key_is(table, next(row for row in rows if row[2]))).values(project_exists=False)
        ],
        by_sums=False,
    ),
    "an edited member": Damage(project.table, changed(repos='{"r":[true,1,"x"]}', repo_count=1), by_sums=False),
    "a wrong number of members": Damage(tenant.table, changed(support_desk_count=77), by_sums=False),
    "a project that was never created": Damage(
        project.table,
        lambda table, rows: [insert(table).values((rows[0][0], "no such project", *rows[0][2:]))],
        by_sums=True,
    ),
    "a tenant that does not exist": Damage(
        tenant.table,
        lambda table, _rows: [insert(table).values(("ten_unheard_of", 1, "{}", None, -1, "", 1, 1))],
        by_sums=True,
        tenants=("ten_unheard_of",),
    ),
    "swapped tenants": Damage(analysis_trend.table, exchanged, by_sums=True, tenants=("ten_0", "ten_1")),
    "swapped support desks": Damage(tenant.table, exchanged, by_sums=True, tenants=("ten_0", "ten_1")),
    "a missing entry": Damage(activity.table, gone, by_sums=True),
    "an entry that was never sent": Damage(
        activity.table,
        lambda table, rows: [insert(table).values((*rows[0][:2], 2**60, "0000000f", "{}"))],
        by_sums=True,
    ),
    "an edited fragment": Damage(activity.table, changed(evaluation="{}"), by_sums=False),
    "an entry of another time": Damage(activity.table, changed(time_us=5), by_sums=False),
    "an entry in another's place": Damage(activity.table, changed(event_id="0000000e"), by_sums=True),
    "an emptied read model": Damage(
        activity.table, lambda table, _rows: [delete(table)], by_sums=True, tenants=tuple(TENANTS)
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_any_damage_to_a_row_is_found_and_repaired(filled: Runtime, name: str) -> None:
    damage, before = DAMAGE[name], dump(filled.reader)
    with filled.writer.begin() as connection:
        for statement in damage.harm(damage.table, before[damage.table.name]):
            assert connection.execute(statement).rowcount != 0
    assert dump(filled.reader) != before
    sums = verification(filled, folded=False)
    assert sorted(sums.mismatched) == (list(damage.tenants) if damage.by_sums else [])
    found = verification(filled)
    assert found.has_problems
    assert sorted(found.mismatched) == list(damage.tenants)
    assert repaired(found).repaired == set(damage.tenants)
    assert dump(filled.reader) == before
    assert not verification(filled).has_problems
    assert pending(filled) == {}


def test_nothing_is_found_in_undamaged_rows(filled: Runtime) -> None:
    append(filled, *EVENTS[:50], event("watchdog.evaluated.v1", tenantid="ten_new"))
    drain_all(filled)
    found = verification(filled)
    assert not found.has_problems
    assert [set(means) for means in found.differing_rows.values()] == [{"sums", "rows"}] * 4


def log_rows(runtime: Runtime, type_: str, tenant_id: str = "ten_0") -> Sequence[Any]:
    log = event_log.table
    mine = select(log).where(log.c.tenant_id == tenant_id, log.c.type == type_).order_by(log.c.number)
    with runtime.reader.connect() as connection:
        return connection.execute(mine).all()


def lose(runtime: Runtime, row: Any) -> None:
    with runtime.writer.begin() as connection:
        assert connection.execute(delete(event_log.table).where(*key_is(event_log.table, row))).rowcount == 1


def rewrite(runtime: Runtime, row: Any, **columns: Any) -> None:
    with runtime.writer.begin() as connection:
        connection.execute(update(event_log.table).where(*key_is(event_log.table, row)).values(columns))


@pytest.mark.parametrize("type_", ["analysis.created.v1", "watchdog.evaluated.v1"])
def test_a_log_that_lost_events_is_reported_and_the_rows_keep_them(filled: Runtime, type_: str) -> None:
    append(filled, *(event("watchdog.evaluated.v1", tenantid="ten_0") for _ in range(130)))
    drain_all(filled)
    before = dump(filled.reader)
    lost = max(log_rows(filled, type_), key=lambda row: (row.time_us, row.event_id))
    lose(filled, lost)
    found = repaired(verification(filled))
    assert (found.mismatched, found.unrepairable, found.repaired) == ({"ten_0"}, {"ten_0"}, set())
    fault = found.log_errors.pop(partition_of("ten_0", 4))
    assert f"missing: {lost.number}" in str(fault)
    assert set(found.log_errors.values()) == {None}
    assert dump(filled.reader) == before


def test_missing_newest_events_of_a_log_are_found_too(filled: Runtime) -> None:
    log, owner = event_log.table, partition_of("ten_0", 4)
    with filled.writer.begin() as connection:
        last = (
            connection.execute(select(log.c.number).where(log.c.partition == owner).order_by(log.c.number.desc()))
            .scalars()
            .first()
            or 0
        )
        connection.execute(delete(log).where(log.c.partition == owner, log.c.number > last - 3))
    assert f"missing: {last - 2:,} to {last:,}" in str(verification(filled, folded=False).log_errors[owner])


def another(tenant_id: str) -> str:
    """Return a tenant of the same partition."""
    others = (f"t{number}" for number in range(100))
    return next(other for other in others if partition_of(other, 4) == partition_of(tenant_id, 4))


# Damage to a row of the log that keeps its key.
REWRITTEN: dict[str, dict[str, Any]] = {
    "another tenant": {"tenant_id": another("ten_0")},
    "another id": {"event_id": "no id at all"},
    "another type": {"type": "project.updated.v1"},
    "another project": {"project_id": "no project"},
    "no project": {"project_id": None},
    "another time": {"time_us": 5},
    "no event": {"body": b"{"},
    "another event": {"body": body(event(tenantid="ten_0"))},
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_log_whose_bytes_and_columns_disagree_is_found_and_nothing_is_rebuilt_from_it(
    filled: Runtime, name: str
) -> None:
    before = dump(filled.reader)
    rewrite(filled, log_rows(filled, "analysis.created.v1")[3], **REWRITTEN[name])
    found = repaired(verification(filled))
    assert found.has_problems
    (error,) = found.failed.values()
    assert ("not_json" if name == "no event" else "its bytes and its columns disagree") in error
    assert found.repaired == set()
    assert dump(filled.reader) == before


def test_a_gap_in_the_numbers_of_a_log_is_found(filled: Runtime) -> None:
    rewrite(filled, log_rows(filled, "analysis.created.v1")[3], number=-7)
    assert any(verification(filled, folded=False).log_errors.values())


def test_no_false_alarm_is_raised_while_drains_commit(runtime: Runtime) -> None:
    append(runtime, *EVENTS[:100])
    drain_all(runtime)

    def project() -> None:
        for first in range(100, len(EVENTS), 20):
            append(runtime, *EVENTS[first : first + 20])
            drain_all(runtime)

    projecting = Thread(target=project)
    projecting.start()
    looks = 0
    while projecting.is_alive() or not looks:
        found = verification(runtime, folded=looks % 2 == 0)
        assert not found.has_problems, (found.checksum_mismatches, found.log_errors, found.failed)
        looks += 1
    projecting.join()
    assert_fully_projected(runtime, EVENTS)


def a_pass(runtime: Runtime) -> verify_results.VerificationSummary:
    """Run verification jobs until a pass is complete, and return the results."""
    verify_jobs.verify_slice(runtime)
    while verify_pass.is_running(runtime.queue.connection):
        verify_jobs.verify_slice(runtime)
    return verify_results.read(runtime.queue.connection)


def wrong(runtime: Runtime, tenant_id: str, *values: int) -> None:
    with runtime.writer.begin() as connection:
        mine = analysis_trend.table.c.tenant_id == tenant_id
        for value in values:
            connection.execute(update(analysis_trend.table).where(mine).values(event_count=value))


def test_a_mismatch_found_by_a_pass_is_a_problem_until_it_is_repaired(filled: Runtime) -> None:
    found = a_pass(filled)
    assert (found.tenants, found.mismatched_tenants, found.log_errors, found.skipped_tenants) == (3, 0, {}, 0)
    assert found.finished_ms is not None
    assert problems.verification_mismatches(read_status(filled)) == []
    wrong(filled, "ten_1", 4711)
    assert a_pass(filled).mismatched_tenants == 1
    [problem] = problems.verification_mismatches(read_status(filled))
    assert "3 rows of 1 tenant differ from the event log" in problem
    assert "run `projector verify`" in str(problems.warnings(read_status(filled)))
    assert repaired(verification(filled)).repaired == {"ten_1"}
    assert a_pass(filled).mismatched_tenants == 0
    assert problems.verification_mismatches(read_status(filled)) == []


def test_a_pass_verifies_changed_tenants_and_a_sample_of_unchanged_ones(
    filled: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_jobs, "UNCHANGED_TENANTS_MAX", 1)
    assert a_pass(filled).tenants == 3
    wrong(filled, "ten_2", 4711)
    looks = [a_pass(filled) for _ in range(3)]
    assert [look.tenants for look in looks[:2]] == [1, 1]
    assert looks[-1].mismatched_tenants == 1
    append(filled, event(tenantid="ten_0"), event(tenantid="ten_1"))
    drain_all(filled)
    assert a_pass(filled).tenants == 3  # those two, and the known mismatch


def test_after_very_many_events_a_pass_verifies_all_tenants(filled: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_jobs, "CHANGED_EVENTS_MAX", 10)
    monkeypatch.setattr(verify_jobs, "UNCHANGED_TENANTS_MAX", 1)
    assert a_pass(filled).tenants == 3


def test_a_pass_yields_to_drains_and_is_continued(filled: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_jobs, "SLICE_S", 0.0)
    verify_jobs.verify_slice(filled)
    assert filled.queue.count == 1
    assert verify_results.read(filled.queue.connection).finished_ms is None
    assert a_pass(filled).tenants == 3


def test_a_mismatch_that_only_a_refold_finds_stays_reported_until_it_is_repaired(filled: Runtime) -> None:
    redis = filled.queue.connection
    with filled.writer.begin() as connection:
        connection.execute(update(project.table).where(project.table.c.tenant_id == "ten_0").values(slug="another"))
    found = verification(filled)
    found.publish(redis)
    assert a_pass(filled).mismatched_tenants == 1  # which does not check that
    repaired(found).publish(redis)
    assert verify_results.read(redis).mismatched_tenants == 0


def test_only_one_verification_job_is_enqueued_at_a_time(filled: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    redis = filled.queue.connection
    redis.delete(verify_jobs.SCHEDULED_KEY)
    for _ in range(3):
        verify_jobs.enqueue_next_pass(filled)
    assert filled.queue.count == 1
    redis.delete(verify_jobs.SCHEDULED_KEY)  # as if no worker had run for that long
    verify_jobs.enqueue_next_pass(filled)
    assert filled.queue.count == 1
    filled.queue.empty()  # type: ignore[no-untyped-call]
    redis.delete(verify_jobs.SCHEDULED_KEY)
    verify_jobs.enqueue_next_pass(filled)
    assert filled.queue.count == 1


def test_an_outage_in_the_middle_of_a_pass_leaves_the_rest_to_another_job(
    filled: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise OperationalError("SELECT", {}, sqlite3.OperationalError("disk I/O error"))

    with monkeypatch.context() as patch:
        patch.setattr("workers.maintenance.verify_checksums.find_row_mismatches", away)
        verify_jobs.verify_slice(filled)
    assert verify_pass.is_running(filled.queue.connection)
    wrong(filled, "ten_2", 4711)
    found = a_pass(filled)
    assert (found.tenants, found.mismatched_tenants) == (3, 1)


@pytest.mark.full
def test_a_job_that_is_out_of_time_releases_its_connection(filled: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    if filled.reader.dialect.name == "sqlite":
        pytest.skip("a thread that waits for SQLite hears of it when SQLite answers")

    def slow(connection: Connection, **_: object) -> list[Any]:
        connection.execute(text("SELECT pg_sleep(60)"))
        return []

    monkeypatch.setattr(verify_jobs, "STATEMENT_TIMEOUT_S", 60.0)
    monkeypatch.setattr("workers.maintenance.verify_checksums.find_row_mismatches", slow)
    for _ in range(3):
        with pytest.raises(JobTimeoutException), UnixSignalDeathPenalty(3, JobTimeoutException):  # type: ignore[no-untyped-call]
            verify_jobs.verify_slice(filled)
    append(filled, event(tenantid="ten_0"))
    drain_all(filled)
    assert totals(filled)["applied"] == len(EVENTS) + 1


def test_a_restored_older_database_is_not_reported_as_a_damaged_log(filled: Runtime) -> None:
    assert a_pass(filled).log_errors == {}
    with filled.writer.begin() as connection:
        connection.execute(delete(event_log.table).where(event_log.table.c.number > 10))
        for each in PROJECTIONS:
            connection.execute(delete(each.table))
        connection.execute(
            update(checkpoint_table.table).where(checkpoint_table.table.c.applied > 10).values(applied=10)
        )
    rebuild_all(filled)
    assert a_pass(filled).log_errors == {}


def test_a_pass_reports_damage_to_a_log(filled: Runtime) -> None:
    with filled.writer.begin() as connection:
        connection.execute(event_log.table.delete().where(event_log.table.c.number == 2))
    assert a_pass(filled).log_errors
    assert "is incomplete" in str(problems.verification_mismatches(read_status(filled)))


@pytest.mark.full
def test_a_tenant_that_takes_too_long_is_skipped_and_counted(filled: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

    def slow(connection: Connection, *, projection: Any, tenant_id: str) -> list[Any]:
        if tenant_id == "ten_1":
            connection.execute(text(endless))
        return []

    monkeypatch.setattr(verify_jobs, "STATEMENT_TIMEOUT_S", 2.0)
    monkeypatch.setattr("workers.maintenance.verify_checksums.find_row_mismatches", slow)
    found = a_pass(filled)
    assert (found.tenants, found.skipped_tenants, found.mismatched_tenants) == (3, 1, 0)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_a_killed_worker_had_taken_is_looked_at_by_the_next_pass(
    filled: Runtime, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis: Any = filled.queue.connection
    with monkeypatch.context() as patch:
        patch.setattr(verify_jobs, "SLICE_S", 0.0)
        verify_jobs.verify_slice(filled)  # starts the pass, and looks at the last tenant
    monkeypatch.setattr(verify_jobs, "UNCHANGED_TENANTS_MAX", 1)  # that is ten_0
    with filled.writer.connect() as holder:
        holder.execute(text("LOCK TABLE activity IN ACCESS EXCLUSIVE MODE"))  # on which the worker waits
        worker = start("cli", "worker")
        wait_until(lambda: redis.hexists(verify_pass.UNLOOKED_KEY, '"ten_1"'), "the worker has taken a tenant", 60)
        worker.kill()
        worker.wait()
    wrong(filled, "ten_1", 4711)
    assert a_pass(filled).mismatched_tenants == 0  # the rest of the pass, without that tenant
    assert a_pass(filled).mismatched_tenants == 1
    assert not redis.exists(verify_pass.UNLOOKED_KEY)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_log_that_takes_too_long_counts_as_not_looked_at(filled: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    redis = filled.queue.connection
    with monkeypatch.context() as patch:
        patch.setattr(verify_jobs, "SLICE_S", 0.0)
        verify_jobs.verify_slice(filled)  # starts the pass, and looks at one of three tenants
        patch.setattr(verify_jobs, "STATEMENT_TIMEOUT_S", 0.05)
        with filled.writer.connect() as holder:
            holder.execute(text("LOCK TABLE event_log IN ACCESS EXCLUSIVE MODE"))
            assert a_pass(filled).skipped_tenants == 4 + 2
    assert verify_results.read_verified_up_to(redis)[0] == {}
    assert len(verify_pass.read_unlooked(redis)) == 4 + 2
    with filled.writer.begin() as connection:
        connection.execute(text("DELETE FROM event_log WHERE number = 2"))
    assert a_pass(filled).log_errors


def test_what_is_not_looked_at_for_an_hour_is_a_warning(filled: Runtime) -> None:
    redis: Any = filled.queue.connection
    a_pass(filled)
    hour_ago_ms = filled.stream.now_ms() - 3_601_000
    redis.hset(verify_pass.UNLOOKED_KEY, mapping={'"ten_1"': hour_ago_ms, "2": hour_ago_ms, "3": hour_ago_ms + 60_000})
    says = "not verified for more than an hour: the rows of 1 tenant, the event log of partition 2"
    assert [problem for problem in problems.warnings(read_status(filled)) if says in problem]
    verification(filled, folded=False).publish(redis)
    assert problems.overdue_verification(read_status(filled)) == []


def test_what_stays_in_a_pass_for_an_hour_is_a_warning(filled: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_jobs, "SLICE_S", 0.0)
    monkeypatch.setattr(verify_pass, "OVERDUE_AFTER_S", -1)
    verify_jobs.verify_slice(filled)
    assert problems.overdue_verification(read_status(filled)) != []
    a_pass(filled)
    assert problems.overdue_verification(read_status(filled)) == []


def test_a_long_log_is_looked_at_in_parts(filled: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_jobs, "LOG_EVENTS_AT_ONCE", 20)
    found = a_pass(filled)
    assert (found.log_errors, found.skipped_tenants) == ({}, 0)
    applied = {at.partition: at.applied for at in checkpoints(filled)}
    assert verify_results.read_verified_up_to(filled.queue.connection)[0] == applied
    assert max(applied.values()) > 100
    filled.queue.connection.delete(verify_results.RESULTS_KEY)
    with filled.writer.begin() as connection:
        connection.execute(delete(event_log.table).where(event_log.table.c.number == 90))
    assert "missing: 90" in str(a_pass(filled).log_errors)
