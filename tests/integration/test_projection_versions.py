"""Projection versions on both databases: releases run side by side safely, and a rebuild brings all rows to one version."""

import random
from collections.abc import Callable, Sequence

import anyio
import pytest
from sqlalchemy import insert, update

from event_stream.events.event import partition_of
from projections.database.columns import Row
from projections.folding.projection import Model, Projection
from projections.lifecycle import log_history
from projections.read_models import activity, analysis_trend
from projections.transaction import event_log, projection_state, projection_version
from projections.transaction.projection_state import OutdatedReleaseError, ProjectionState
from tests.integration.test_verify import repaired, verification
from tests.support.api_client import Api, count_equal_answers
from tests.support.events import event, mixed
from tests.support.harness import append, checkpoints, drain_all, dump, stored_dead_letters, with_projections
from tests.support.invariants import assert_counters_add_up, assert_fully_projected
from tests.support.oracle import Oracle
from tests.support.rebuilds import differing, rebuild_all, rebuilder, results_of
from tests.support.second_projection_version import NEW, OLD, SECOND, is_marked, line
from workers.dispatch.rq_worker import create_worker
from workers.drain.drainer import Drainer, run
from workers.jobs.lease import Lease
from workers.jobs.queue import enqueue_drain
from workers.maintenance import verify_jobs
from workers.reporting import problems
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime

EVENTS = list(mixed(600, tenants=3, projects=3))
TENANTS = ["ten_0", "ten_1", "ten_2"]
ALL_OLD = line(OLD)
ALL_NEW = line(NEW)
LEFT_OUT = line(OLD, analysis_trend="1 incomplete")
FIRST = analysis_trend.projection
WITHOUT_ACTIVITY = tuple(each for each in OLD if each.name != "activity")
"""The projections of the release before there were versions."""


@pytest.fixture
def old(runtime: Runtime) -> Runtime:
    """The first release, which has projected half of the events."""
    append(runtime, *EVENTS[:300])
    drain_all(runtime)
    return runtime


@pytest.fixture
def new(old: Runtime) -> Runtime:
    """The next release, on the same servers."""
    return with_projections(old, *NEW)


def lines(runtime: Runtime) -> dict[str, str]:
    return {row[0]: row[1] for row in dump(runtime.reader, [projection_version.table])["projection_version"]}


def trends(runtime: Runtime) -> Sequence[Row]:
    return dump(runtime.reader, [analysis_trend.table])["analysis_trend"]


def refolded(runtime: Runtime, projection: Projection, tenant_id: str) -> list[Row]:
    """Return the rows that a projection folds from all of a tenant's events."""
    model: Model = {}
    log = dump(runtime.reader, [event_log.table])["event_log"]
    logged = [log_history.LoggedEvent(*row[:2], *row[3:]) for row in log if row[0] == tenant_id]
    projection.fold_into(model, [each for one in logged if (each := one.decode()) is not None])
    return sorted(row for rows in model.values() for row in rows)


def migrate(runtime: Runtime) -> None:
    """Do what `projector migrate --rebuild` does."""
    with runtime.reader.connect() as connection:
        tenants = projection_version.outdated_tenants(connection, runtime.projections)
    outcomes = results_of(rebuilder(runtime).rebuild_outdated(tenants))
    assert {outcome.tenant_id: outcome.error for outcome in outcomes} == dict.fromkeys(tenants)
    with runtime.reader.connect() as connection:
        assert projection_version.outdated_tenants(connection, runtime.projections) == []


def test_a_tenant_starts_with_the_versions_of_the_release_that_applies_its_first_event(
    old: Runtime, new: Runtime
) -> None:
    assert lines(old) == dict.fromkeys(TENANTS, ALL_OLD)
    append(new, event(tenantid="ten_late"))
    drain_all(new)
    assert lines(new) == dict.fromkeys(TENANTS, ALL_OLD) | {"ten_late": ALL_NEW}


def test_a_newer_worker_logs_events_and_leaves_folding_to_the_rebuild(old: Runtime, new: Runtime) -> None:
    before = trends(old)
    append(new, *EVENTS[300:])
    drain_all(new)
    assert trends(new) == before
    assert lines(new) == dict.fromkeys(TENANTS, LEFT_OUT)
    assert sum(at.applied for at in checkpoints(new)) == len(EVENTS)
    assert_counters_add_up(new)

    migrate(new)
    assert lines(new) == dict.fromkeys(TENANTS, ALL_NEW)
    assert all(is_marked(row) for row in trends(new))
    assert_fully_projected(new, EVENTS)


def test_projections_of_the_same_version_are_folded_throughout(old: Runtime, new: Runtime) -> None:
    append(new, *EVENTS[300:])
    drain_all(new)
    for each in NEW:
        if each.name != "analysis_trend":
            rows = [row for tenant_id in TENANTS for row in refolded(old, each, tenant_id)]
            assert dump(old.reader, [each.table])[each.table.name] == rows


def test_after_the_rebuild_events_are_folded_live_again(new: Runtime) -> None:
    migrate(new)
    append(new, *EVENTS[300:])
    drain_all(new)
    assert trends(new) == [row for tenant_id in TENANTS for row in refolded(new, SECOND, tenant_id)]
    assert differing(rebuild_all(new)) == {}
    assert_fully_projected(new, EVENTS)


def test_an_older_worker_rolls_back_and_reports_it_and_the_newer_continues(old: Runtime, new: Runtime) -> None:
    migrate(new)
    before = (trends(old), checkpoints(old))
    append(old, *EVENTS[300:])
    for partition in {partition_of(tenant_id, 4) for tenant_id in TENANTS}:
        lease = Lease(old.queue.connection, partition)
        with pytest.raises(
            OutdatedReleaseError, match="analysis_trend is at version 2, and this release has version 1"
        ):
            run(Drainer(old, partition), lease)
        assert lease.acquire()
        lease.release()
    assert (trends(old), checkpoints(old), stored_dead_letters(old)) == (*before, [])
    drain_all(new)
    assert_fully_projected(new, EVENTS)


def test_an_older_worker_ends_and_another_older_one_does_not_start(
    old: Runtime, new: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(new)
    append(old, event(tenantid="ten_1"))
    monkeypatch.setattr("workers.drain.drainer.process_runtime", lambda: old)
    for _ in range(2):
        enqueue_drain(old.queue, partition_of("ten_1", 4), "token")
    outdated = create_worker(old)
    outdated.work(burst=True, logging_level="CRITICAL")
    assert "run the newer release, or go back to this one with `projector rebuild --downgrade`" in str(
        outdated.outdated
    )
    assert old.queue.count == 1  # it starts no other job
    with old.reader.connect() as connection:
        projection_version.check(connection, NEW)
        with pytest.raises(OutdatedReleaseError):
            projection_version.check(connection, OLD)


def test_a_rollback_before_the_rebuild_loses_nothing(old: Runtime, new: Runtime) -> None:
    append(new, *EVENTS[300:400])
    drain_all(new)
    append(old, *EVENTS[400:])
    drain_all(old)
    assert lines(old) == dict.fromkeys(TENANTS, LEFT_OUT)
    migrate(old)
    assert lines(old) == dict.fromkeys(TENANTS, ALL_OLD)
    assert trends(old) == [row for tenant_id in TENANTS for row in refolded(old, FIRST, tenant_id)]
    assert_fully_projected(old, EVENTS)


def test_a_rollback_after_the_rebuild_requires_a_flag_and_loses_nothing(old: Runtime, new: Runtime) -> None:
    migrate(new)
    append(new, *EVENTS[300:])
    drain_all(new)
    with old.reader.connect() as connection:
        assert projection_version.outdated_tenants(connection, OLD) == TENANTS
    refused = results_of(rebuilder(old).rebuild_outdated(TENANTS))
    assert {str(outcome.error)[:51] for outcome in refused} == {"OutdatedReleaseError: read model analysis_trend is "}
    assert lines(old) == dict.fromkeys(TENANTS, ALL_NEW)

    projection_version.mark_newer_pending(old.writer, OLD, 4)
    assert lines(old) == dict.fromkeys(TENANTS, LEFT_OUT)
    assert count_equal_answers(old, Oracle(EVENTS)) > 0
    migrate(old)
    assert trends(old) == [row for tenant_id in TENANTS for row in refolded(old, FIRST, tenant_id)]
    assert_fully_projected(old, EVENTS)


def test_going_back_forgets_projections_that_only_the_newer_release_has(old: Runtime) -> None:
    older = with_projections(old, *WITHOUT_ACTIVITY)
    projection_version.mark_newer_pending(old.writer, older.projections, 4)
    assert lines(old) == dict.fromkeys(TENANTS, line(WITHOUT_ACTIVITY))
    append(older, *EVENTS[300:])
    drain_all(older)
    migrate(old)
    assert_fully_projected(old, EVENTS)


def test_a_new_projection_responds_503_until_it_is_built_for_the_tenant(runtime: Runtime) -> None:
    """The older release has no monitoring activity."""
    older = with_projections(runtime, *WITHOUT_ACTIVITY)
    append(older, *EVENTS[:300])
    drain_all(older)
    append(runtime, *EVENTS[300:])
    drain_all(runtime)
    assert dump(runtime.reader, [activity.table])["activity"] == []
    oracle = Oracle(EVENTS)
    projects = [(tenant, project) for tenant, project in oracle.projects() if oracle.exists(tenant, project)]
    api = Api(runtime.writer, runtime.reader)

    async def statuses(path: Callable[[str, str], str]) -> set[int]:
        return {
            (await api.ask(path(tenant, project), api.key(tenant), X_Project_Id=project)).status_code
            for tenant, project in projects
        }

    async def asked() -> None:
        def newest(_tenant: str, _project: str) -> str:
            return "/v1/config/monitoring/activity"

        refused = await api.ask(newest("", ""), api.key("ten_0"), X_Project_Id=projects[0][1])
        assert (refused.json()["error"]["code"], refused.headers["Retry-After"]) == ("UNAVAILABLE", "30")
        assert await statuses(newest) == {503}
        slugs = {(tenant, held): slug for tenant, _ in projects for slug, held in oracle.slugs(tenant).items()}
        for (tenant, _), slug in slugs.items():
            await api.data(f"/v1/config/projects/{slug}/stats", api.key(tenant))
        unheard_of = await api.ask(newest("", ""), api.key("ten_unheard_of"), X_Project_Id=projects[0][1])
        assert unheard_of.status_code == 404

    anyio.run(asked)
    migrate(runtime)
    api.close()
    assert_fully_projected(runtime, EVENTS)


def test_a_tenant_with_a_damaged_version_record_is_rebuilt(old: Runtime) -> None:
    with old.writer.begin() as connection:
        connection.execute(
            update(projection_version.table).values(versions="activity 1, analysis_trend, project x, tenant 0")
        )
    append(old, *EVENTS[300:])
    drain_all(old)
    assert set(lines(old).values()) == {"activity 1"}
    migrate(old)
    assert_fully_projected(old, EVENTS)


def test_status_counts_tenants_with_a_pending_rebuild_and_tenants_of_a_newer_release(
    old: Runtime, new: Runtime
) -> None:
    assert problems.pending_rebuilds(read_status(old)) == problems.newer_versions(read_status(old)) == []
    due = "a rebuild is pending: analysis_trend to version 2 for 3 tenants"
    assert problems.pending_rebuilds(read_status(new)) == [due]
    assert f"{due}; run `projector migrate --rebuild`" in problems.errors(read_status(new))
    assert problems.newer_versions(read_status(new)) == []
    with new.reader.connect() as connection:
        (first, *others) = projection_version.outdated_tenants(connection, NEW)
    results_of(rebuilder(new).rebuild_outdated([first]))
    assert problems.pending_rebuilds(read_status(new)) == [due.replace("3", "2")]
    assert problems.newer_versions(read_status(old)) == ["analysis_trend has rows of a newer release for 1 tenant"]
    results_of(rebuilder(new).rebuild_outdated(others))
    assert problems.pending_rebuilds(read_status(new)) == []
    older = with_projections(old, *WITHOUT_ACTIVITY)
    unknown = [each for each in read_status(older).projections if each.version is None]
    assert [(each.name, each.rebuild_pending_tenants, each.newer_version_tenants) for each in unknown] == [
        ("activity", 0, 3)
    ]


def test_verification_skips_tenants_with_a_pending_rebuild_and_checks_the_rest(old: Runtime, new: Runtime) -> None:
    append(new, *EVENTS[300:])
    drain_all(new)
    found = verification(new)
    assert (found.mismatched, found.failed) == (set(), {})
    with new.writer.begin() as connection:
        connection.execute(update(analysis_trend.table).values(event_count=-1))
        connection.execute(update(activity.table).where(activity.table.c.tenant_id == "ten_1").values(event_id="x"))
    assert verification(new).mismatched == {"ten_1"}
    new.queue.connection.delete(verify_jobs.SCHEDULED_KEY)
    while read_status(new).verification.finished_ms is None:
        verify_jobs.verify_slice(new)
    assert read_status(new).verification.mismatched_tenants == 1
    assert repaired(verification(new)).repaired == {"ten_1"}


def test_rows_are_complete_or_marked_incomplete_whatever_two_releases_do(old: Runtime, new: Runtime) -> None:
    random_ = random.Random(11)
    waiting = list(EVENTS[300:])
    ran: set[str] = set()

    def append_some() -> None:
        append(old, *(waiting.pop() for _ in range(min(len(waiting), 15))))

    def drain(runtime: Runtime) -> None:
        try:
            drain_all(runtime)
        except OutdatedReleaseError:
            ran.add("refused")

    def rebuild_some(runtime: Runtime) -> None:
        tenants = random_.sample(TENANTS, 2)
        for outcome in results_of(rebuilder(runtime).rebuild_outdated(tenants)):
            ran.add("rebuilt" if outcome.error is None else "not rebuilt")

    deeds: list[Callable[[], None]] = [
        append_some,
        lambda: drain(old),
        lambda: drain(new),
        lambda: rebuild_some(old),
        lambda: rebuild_some(new),
        lambda: projection_version.mark_newer_pending(old.writer, OLD, 4),
    ]
    for _ in range(60):
        random_.choices(deeds, weights=(8, 4, 4, 1, 2, 1))[0]()
        for tenant_id, stored in lines(old).items():
            at = projection_state.parse(stored)["analysis_trend"]
            if not at.is_incomplete:
                made_by = {1: FIRST, 2: SECOND}[at.version]
                assert [row for row in trends(old) if row[0] == tenant_id] == refolded(old, made_by, tenant_id)
    assert ran == {"refused", "rebuilt", "not rebuilt"}
    append(new, *waiting)
    drain(new)
    migrate(new)
    assert_fully_projected(new, EVENTS)


@pytest.mark.parametrize(
    ("text", "standings"),
    [
        ("", {}),
        ("a 1", {"a": ProjectionState(1)}),
        ("a 12 incomplete, b_c 3", {"a": ProjectionState(12, is_incomplete=True), "b_c": ProjectionState(3)}),
        ("a, b 0, c -1, d 1 before, e 2", {"e": ProjectionState(2)}),
    ],
)
def test_a_version_record_round_trips_through_text(text: str, standings: projection_state.ProjectionStates) -> None:
    assert projection_state.parse(text) == standings
    assert projection_state.parse(projection_state.dump(standings)) == standings


def test_the_cost_of_status_does_not_depend_on_the_number_of_tenants(runtime: Runtime) -> None:
    with runtime.writer.begin() as connection:
        connection.execute(
            insert(projection_version.table), [{"tenant_id": f"t{n}", "versions": ALL_OLD} for n in range(10_000)]
        )
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("ANALYZE projection_version")
    explain = "EXPLAIN QUERY PLAN" if runtime.reader.dialect.name == "sqlite" else "EXPLAIN"
    with runtime.reader.connect() as connection:
        statement = projection_version._unexpected_lines(OLD).compile(
            connection.engine, compile_kwargs={"literal_binds": True}
        )
        plan = " ".join(str(row) for row in connection.exec_driver_sql(f"{explain} {statement}"))
        assert plan.count("projection_version_by_versions") == 2
        assert projection_version.count_tenants(connection, OLD) == dict.fromkeys(
            (each.name for each in OLD), projection_version.TenantCounts(pending=0, newer=0)
        )
