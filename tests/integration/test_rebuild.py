"""The rebuild on both databases: it restores the live rows byte for byte while events keep being applied."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace as changed
from typing import Any

import anyio
import pytest
import sqlalchemy
from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, delete, insert, text, update
from sqlalchemy.exc import OperationalError

from event_stream.events.event import Event, partition_of
from event_stream.events.event_types import AnalysisCreated
from projections.database.columns import KeyText, Row
from projections.folding import row_checksum
from projections.folding.projection import Key, Projection
from projections.folding.rollup import Rollup
from projections.lifecycle import log_history, pending_rebuilds, rebuild, refold, tenant_data
from projections.lifecycle.log_history import LogPosition
from projections.lifecycle.pending_rebuilds import RebuildRequest
from projections.lifecycle.refold import LogReplacedError, Refold
from projections.read_models import activity, analysis_trend, project, tenant
from projections.read_models.registry import PROJECTIONS
from projections.transaction import checkpoint_table, event_log
from tests.support.api_client import Api
from tests.support.events import NOW_US, TENANT, event, mixed
from tests.support.failpoints import REBUILD_POINTS, SimulatedCrashError, on_nth_call, wrap
from tests.support.harness import append, drain_all, dump, with_projections
from tests.support.invariants import assert_fully_projected
from tests.support.rebuilds import differing, pending, plan_rebuilds, rebuild_all, rebuilder, results_of
from tests.support.servers import wait_until
from workers.maintenance import parallel
from workers.maintenance.rebuild_tenants import Rebuilder
from workers.runtime import Runtime

TENANT_PARTITION = partition_of(TENANT, 4)
EVENTS = list(mixed(900, tenants=3, projects=3))


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pages, so that a few events and rows fill many."""
    monkeypatch.setattr(refold, "PAGE_EVENTS", 50)
    monkeypatch.setattr(refold, "FOLD_EVENTS", 120)
    monkeypatch.setattr(rebuild, "PAGE_ROWS", 20)
    monkeypatch.setattr("projections.database.paging.PAGE_ROWS", 20)
    monkeypatch.setattr("projections.lifecycle.tenant_data.COUNT_PAGE", 50)


@pytest.fixture
def filled(runtime: Runtime) -> Runtime:
    append(runtime, *EVENTS)
    drain_all(runtime)
    return runtime


def execute(runtime: Runtime, *statements: Any) -> None:
    with runtime.writer.begin() as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount != 0


def one_of(runtime: Runtime, table: Table, tenant_id: str) -> Row:
    return next(row for row in dump(runtime.reader, [table])[table.name] if row[0] == tenant_id)


def key_is(table: Table, row: Row) -> list[Any]:
    return [column == value for column, value in zip(table.primary_key.columns, row, strict=False)]


# Damage to one row of a tenant, and how the rebuild reports it: missing, extra, changed.
DAMAGE: dict[str, tuple[Table, Callable[[Table, Row], Any], tuple[int, int, int]]] = {
    "a wrong count": (
        analysis_trend.table,
        lambda table, row: update(table).where(*key_is(table, row)).values(total=row[2] + 1),
        (0, 0, 1),
    ),
    "a stale day": (
        analysis_trend.table,
        lambda table, row: update(table).where(*key_is(table, row)).values(by_day="[[1,1]]"),
        (0, 0, 1),
    ),
    "a missing row": (project.table, lambda table, row: delete(table).where(*key_is(table, row)), (1, 0, 0)),
    "a missing tenant": (tenant.table, lambda table, row: delete(table).where(*key_is(table, row)), (1, 0, 0)),
    "an extra row": (
        project.table,
        lambda table, row: insert(table).values((row[0], "no such project", *row[2:])),
        (0, 1, 0),
    ),
    "an extra entry": (
        activity.table,
        lambda table, row: insert(table).values((*row[:2], 5, "no such event", "{}")),
        (0, 1, 0),
    ),
    "a missing entry": (activity.table, lambda table, row: delete(table).where(*key_is(table, row)), (1, 0, 0)),
    "an edited fragment": (
        activity.table,
        lambda table, row: update(table).where(*key_is(table, row)).values(evaluation="{}"),
        (0, 0, 1),
    ),
    "an edited member": (
        project.table,
        lambda table, row: update(table).where(*key_is(table, row)).values(repos='{"r":[true,1,"x"]}', repo_count=1),
        (0, 0, 1),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_any_damage_to_a_row_is_undone_byte_for_byte(filled: Runtime, damage: str) -> None:
    before = dump(filled.reader)
    table, harm, expected = DAMAGE[damage]
    execute(filled, harm(table, one_of(filled, table, "ten_1")))
    assert dump(filled.reader) != before
    assert differing(rebuild_all(filled)) == {table.name: expected}
    assert dump(filled.reader) == before
    assert differing(rebuild_all(filled)) == {}


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda each: each.name)
def test_an_emptied_read_model_is_filled_from_history(filled: Runtime, projection: Any) -> None:
    before = dump(filled.reader)
    execute(filled, delete(projection.table))
    rebuild_all(filled, [projection])
    assert dump(filled.reader) == before


def test_rows_of_a_tenant_without_events_are_removed(filled: Runtime) -> None:
    before = dump(filled.reader)
    execute(filled, insert(tenant.table).values(("ten_unheard_of", 1, "{}", None, -1, "", 1, 1)))
    assert differing(rebuild_all(filled)) == {"tenant": (0, 1, 0)}
    assert dump(filled.reader) == before


def test_equal_rows_are_not_written(filled: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Row] = []
    for name in ("insert_rows", "upsert_rows"):
        monkeypatch.setattr(rebuild, name, lambda _connection, _table, rows: written.extend(rows))
    rebuild_all(filled)
    assert written == []
    row = one_of(filled, activity.table, "ten_2")
    execute(filled, update(activity.table).where(*key_is(activity.table, row)).values(evaluation="{}"))
    rebuild_all(filled)
    assert written == [row]


def test_a_selection_leaves_other_tenants_and_read_models_unchanged(filled: Runtime) -> None:
    before = dump(filled.reader)
    for table in (project.table, analysis_trend.table):
        execute(filled, delete(table))
    (trends,) = [each for each in PROJECTIONS if each.name == "analysis_trend"]
    plan_rebuilds(filled, RebuildRequest("analysis_trend", "ten_1"), [trends])
    results_of(rebuilder(filled, [trends]).rebuild_pending(["ten_1"], RebuildRequest("analysis_trend", "ten_1")))
    after = dump(filled.reader)
    assert after == before | {
        "project": [],
        "analysis_trend": [row for row in before["analysis_trend"] if row[0] == "ten_1"],
    }


def test_a_dry_run_reports_differences_and_changes_nothing(filled: Runtime) -> None:
    row = one_of(filled, analysis_trend.table, "ten_0")
    execute(
        filled,
        update(analysis_trend.table).where(*key_is(analysis_trend.table, row)).values(total=-1),
        delete(tenant.table),
    )
    before = dump(filled.reader)
    (outcome,) = results_of(rebuilder(filled).compare(["ten_0"]))
    assert differing([outcome]) == {"analysis_trend": (0, 0, 1), "tenant": (1, 0, 0)}
    assert [(each.kind, each.read_model, each.key, each.columns) for each in outcome.samples] == [
        ("missing", "tenant", ("ten_0",), {}),
        ("changed", "analysis_trend", tuple(row[:2]), {"total": (-1, row[2])}),
    ]
    assert dump(filled.reader) == before
    assert pending(filled) == {}


def test_events_applied_between_the_first_fold_and_the_replacement_count_once(filled: Runtime) -> None:
    late = list(mixed(400, tenants=3, projects=3, seed=2))
    steps = iter(range(0, len(late), 40))

    execute(filled, delete(project.table), delete(activity.table))
    for each in rebuilder(filled).rebuild_pending(plan_rebuilds(filled), RebuildRequest()):
        if isinstance(each, int) and (first := next(steps, None)) is not None:
            append(filled, *late[first : first + 40])
            drain_all(filled)
    rest = [each for first in steps for each in late[first : first + 40]]
    append(filled, *rest)
    drain_all(filled)
    assert_fully_projected(filled, [*EVENTS, *late])
    assert differing(rebuild_all(filled)) == {}


def test_events_applied_after_the_last_read_are_folded_under_the_claim(
    filled: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is folded and the replacement starts: only the claim protects it."""
    late = list(mixed(200, tenants=3, projects=3, seed=3))
    execute(filled, delete(analysis_trend.table))

    def replace(*arguments: Any) -> Any:
        append(filled, *late)
        drain_all(filled)
        late.clear()
        return rebuild.replace(*arguments)

    monkeypatch.setattr("workers.maintenance.rebuild_tenants.replace", replace)
    made = [*EVENTS, *late]
    rebuild_all(filled)
    assert_fully_projected(filled, made)


@pytest.mark.both_databases
def test_a_drain_waits_for_the_claim_and_then_applies(filled: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    late = [event(tenantid="ten_1") for _ in range(30)]
    append(filled, *late)
    waiting = threading.Thread(target=drain_all, args=(filled,))
    settle = pending_rebuilds.complete

    def settle_slowly(connection: Connection, tenant_id: str, names: Any) -> None:
        if tenant_id == "ten_1" and not waiting.ident:
            waiting.start()
            if connection.dialect.name == "postgresql":
                wait_until(lambda: _waits_for_a_lock(connection), "the drain waits for the claim")
        settle(connection, tenant_id, names)

    monkeypatch.setattr(pending_rebuilds, "complete", settle_slowly)
    rebuild_all(filled)
    waiting.join()
    drain_all(filled)
    assert_fully_projected(filled, [*EVENTS, *late])


def _waits_for_a_lock(connection: Connection) -> bool:
    return bool(connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("point", REBUILD_POINTS)
def test_after_a_crash_at_any_step_it_continues_where_it_stopped(
    filled: Runtime, monkeypatch: pytest.MonkeyPatch, point: str, number: int
) -> None:
    before = dump(filled.reader)
    execute(filled, delete(analysis_trend.table), update(activity.table).values(evaluation="{}"))
    damaged = dump(filled.reader)
    tenants = plan_rebuilds(filled)

    def die() -> None:
        raise SimulatedCrashError

    with monkeypatch.context() as patch:
        owner, name, _ = REBUILD_POINTS[point]
        patch.setattr(owner, name, wrap(REBUILD_POINTS[point], on_nth_call(number, die)))
        with pytest.raises(SimulatedCrashError):
            results_of(rebuilder(filled).rebuild_pending(tenants, RebuildRequest()))
    left = pending(filled)
    assert tenants[-1] in left
    for table, rows in dump(filled.reader).items():
        for tenant_id in tenants:
            expected = damaged if tenant_id in left else before
            mine = [row for row in rows if row[0] == tenant_id]
            assert mine == [row for row in expected[table] if row[0] == tenant_id]
    done = results_of(rebuilder(filled).rebuild_pending(left, RebuildRequest()))
    assert [outcome.tenant_id for outcome in done] == list(left)
    assert dump(filled.reader) == before
    assert pending(filled) == {}


def test_two_concurrent_rebuilds_do_no_harm(filled: Runtime) -> None:
    before = dump(filled.reader)
    execute(filled, delete(project.table), delete(activity.table))
    tenants = plan_rebuilds(filled)
    meeting = threading.Barrier(2)
    outcomes: list[Any] = []

    def work() -> None:
        meeting.wait()
        outcomes.extend(results_of(rebuilder(filled, timeout_s=60.0).rebuild_pending(tenants, RebuildRequest())))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {outcome.tenant_id for outcome in outcomes} == set(tenants)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert dump(filled.reader) == before
    assert pending(filled) == {}


def test_a_tenant_that_another_process_has_finished_is_skipped(filled: Runtime) -> None:
    tenants = plan_rebuilds(filled)
    slower = rebuilder(filled).rebuild_pending(tenants, RebuildRequest())
    assert next(slower) == 50  # a page of the first tenant; most of its log is still unread
    results_of(rebuilder(filled).rebuild_pending(tenants, RebuildRequest()))
    assert list(slower) == []


def test_a_request_that_another_process_has_completed_is_not_repeated(filled: Runtime) -> None:
    plan_rebuilds(filled)
    plan_rebuilds(filled, RebuildRequest(None, "ten_1"))
    results_of(rebuilder(filled).rebuild_pending(["ten_1"], RebuildRequest(None, "ten_1")))
    assert sorted(pending(filled)) == ["ten_0", "ten_2"]
    assert [
        each.tenant_id
        for each in results_of(rebuilder(filled).rebuild_pending(["ten_0", "ten_1", "ten_2"], RebuildRequest()))
    ] == [
        "ten_0",
        "ten_2",
    ]


def test_a_failing_fold_names_the_event_and_leaves_the_tenant_unchanged(filled: Runtime) -> None:
    execute(filled, delete(analysis_trend.table))
    before = dump(filled.reader)
    culprit = next(each for each in EVENTS if each["tenantid"] == "ten_1" and each["type"] == "analysis.created.v1")

    def fold(row: Any, event: Event) -> Any:
        if event.id == culprit["id"]:
            raise ZeroDivisionError
        return analysis_trend.fold(row, event)

    broken = changed(analysis_trend.projection, fold=fold)
    outcomes = rebuild_all(with_projections(filled, project.projection, broken))
    assert {outcome.tenant_id: outcome.error for outcome in outcomes} == {
        "ten_0": None,
        "ten_1": f"event {culprit['id']} of tenant ten_1: FoldError: projection analysis_trend failed with ZeroDivisionError",
        "ten_2": None,
    }
    assert list(pending(filled)) == ["ten_1"]
    assert {row[0] for row in dump(filled.reader)["analysis_trend"]} == {"ten_0", "ten_2"}
    assert dump(filled.reader)["project"] == before["project"]


@pytest.mark.parametrize("edit", [{"body": b"{}"}, {"type": "of.another.release.v1", "body": b'{"type":"x"}'}])
def test_an_event_that_can_no_longer_be_decoded_is_named(filled: Runtime, edit: dict[str, Any]) -> None:
    before = dump(filled.reader)
    id_ = next(each["id"] for each in EVENTS if each["tenantid"] == "ten_2")
    execute(filled, update(event_log.table).where(event_log.table.c.event_id == id_).values(edit))
    failed = [outcome for outcome in rebuild_all(filled) if outcome.error]
    assert [outcome.tenant_id for outcome in failed] == ["ten_2"]
    assert f"event {id_} of tenant ten_2 cannot be decoded any more" in str(failed[0].error)
    assert dump(filled.reader) == before


@pytest.mark.parametrize("error", [OSError("no space"), OperationalError("x", {}, Exception("gone"))])
def test_a_rebuild_waits_for_the_end_of_an_outage_at_any_step(
    filled: Runtime, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    before = dump(filled.reader)
    execute(filled, delete(analysis_trend.table), delete(activity.table))
    calls = {"entry": 0, "read": 0, "settle": 0}

    def failing(name: str, original: Callable[..., Any], at: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            if calls[name] == at:
                raise error
            return original(*arguments, **options)

        return call

    monkeypatch.setattr("workers.maintenance.rebuild_tenants._retry_delay_s", lambda _failures: 0.0)
    monkeypatch.setattr(log_history, "read_history", failing("read", log_history.read_history, 3))
    monkeypatch.setattr(pending_rebuilds, "complete", failing("settle", pending_rebuilds.complete, 2))
    feed = changed(activity.projection, entry=failing("entry", activity.entry, 70))
    chosen: list[Projection] = (
        [analysis_trend.projection, feed]
        if isinstance(error, OSError)
        else [analysis_trend.projection, activity.projection]
    )
    rebuild_all(filled, chosen, timeout_s=600.0)
    assert dump(filled.reader) == before


# Which call fails: in the first page, in later ones, before a fold and after one, in the last; and twice in the tail.
@pytest.mark.parametrize(("step", "at"), [("decode", at) for at in (1, 60, 130, 290, 310, 360)] + [("fold", 4)])
def test_a_transient_failure_neither_loses_nor_repeats_events(
    filled: Runtime, monkeypatch: pytest.MonkeyPatch, step: str, at: int
) -> None:
    execute(filled, delete(analysis_trend.table), delete(activity.table))
    late = [event(tenantid="ten_0") for _ in range(60)]
    made = [*EVENTS, *late]
    history = sum(each["tenantid"] == "ten_0" for each in EVENTS)
    assert 290 <= history < 310
    assert history + len(late) >= 360
    owner, name = {"decode": (log_history.LoggedEvent, "decode"), "fold": (refold, "upcast_all")}[step]
    original = getattr(owner, name)
    calls = [0]

    def fail_once(given: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            raise MemoryError
        return original(given)

    def replace(*arguments: Any) -> Any:
        if late:
            append(filled, *late)
            drain_all(filled)
            late.clear()
        return rebuild.replace(*arguments)

    monkeypatch.setattr(owner, name, fail_once)
    monkeypatch.setattr("workers.maintenance.rebuild_tenants.replace", replace)
    monkeypatch.setattr("workers.maintenance.rebuild_tenants._retry_delay_s", lambda _failures: 0.0)
    rebuild_all(filled, timeout_s=600.0)
    assert calls[0] > at
    assert_fully_projected(filled, made)
    assert differing(rebuild_all(filled)) == {}


def test_memory_holds_at_most_one_page_of_events(filled: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    for events, bytes_max in ((120, 10**6), (10**6, 30_000)):
        monkeypatch.setattr(refold, "FOLD_EVENTS", events)
        monkeypatch.setattr(refold, "FOLD_BYTES_MAX", bytes_max)
        refolding = Refold(PROJECTIONS, "ten_1", partition_of("ten_1", 4))
        with filled.reader.connect() as connection:
            while refolding._in_history:
                refolding.step(connection)
                assert len(refolding._unfolded) < events
                assert sum(len(each.body) for each in refolding._unfolded) < bytes_max
        assert refolding._unfolded == []


def test_a_lasting_outage_is_reported_and_the_remaining_tenants_stay_pending(
    filled: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise OperationalError("x", {}, Exception("gone"))

    monkeypatch.setattr(checkpoint_table, "claim_current", gone)
    monkeypatch.setattr("workers.maintenance.rebuild_tenants._retry_delay_s", lambda _failures: 0.0)
    with pytest.raises(OperationalError):
        rebuild_all(filled)
    assert len(pending(filled)) == 3


def test_a_log_that_lost_its_last_commits_is_folded_again_from_the_start(
    filled: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dump(filled.reader)
    refolding = Refold(PROJECTIONS, "ten_1", partition_of("ten_1", 4))
    with filled.reader.connect() as connection:
        refolding.step(connection)
        monkeypatch.setattr(refolding, "_in_history", False)
        monkeypatch.setattr(refolding, "_up_to", LogPosition(3, ("ten_1", "another event")))
        with pytest.raises(LogReplacedError):
            refolding.step(connection)
    assert refolding.must_restart
    with pytest.raises(LogReplacedError):
        rebuild.replace(filled.writer, refolding)
    assert dump(filled.reader) == before


def test_a_reader_sees_the_old_rows_or_the_new_ones_and_nothing_between(runtime: Runtime) -> None:
    made = [event("project.created.v1"), *(event() for _ in range(40))]
    made += [event("watchdog.evaluated.v1") for _ in range(20)]
    made += [event("log_source.added.v1"), event("support_desk.bound.v1"), event("watchdog.toggled.v1")]
    append(runtime, *made)
    drain_all(runtime)
    truth = dump(runtime.reader)
    wrong: list[Any] = [
        update(analysis_trend.table).values(total=7, by_day=f"[[{(NOW_US - 60_000_000) // 86_400_000_000},7]]"),
        update(project.table).values(log_source_count=7, repo_count=7, notification_channel_count=7),
        update(tenant.table).values(support_desk_count=7),
    ]
    stop = threading.Event()
    answers: list[Any] = []
    asked = threading.Semaphore(0)
    api = Api(runtime.writer, runtime.reader)
    key = api.key(TENANT)

    def read() -> None:
        async def ask() -> None:
            while not stop.is_set():
                answers.append(await api.data("/v1/config/projects/checkout-api/stats", key))
                asked.release()

        anyio.run(ask)

    reading = threading.Thread(target=read)
    reading.start()
    try:
        for _ in range(5):
            execute(runtime, *wrong)
            assert asked.acquire(timeout=120)
            rebuild_all(runtime)
            assert asked.acquire(timeout=120)
            assert dump(runtime.reader) == truth
    finally:
        stop.set()
        reading.join()
        api.close()
    counts = {
        (
            answer["analysisCount"],
            answer["logSourceCount"],
            answer["repoCount"],
            answer["notificationChannelCount"],
            answer["supportDeskCount"],
        )
        for answer in answers
    }
    assert counts <= {(40, 1, 0, 0, 1), (7, 7, 7, 7, 7)}
    assert (40, 1, 0, 0, 1) in counts


def test_a_new_projection_is_filled_from_history_and_then_updated_live(filled: Runtime) -> None:
    """What docs/how-to/add-a-read-model.md promises: one row a tenant, of events that came before it was thought of."""
    table = Table(
        "analysis_total",
        MetaData(),
        Column("tenant_id", KeyText, primary_key=True),
        Column("total", BigInteger, nullable=False),
        *row_checksum.columns(),
    )

    def key(event: Event) -> Key:
        return (event.tenant_id,)

    new: Rollup[tuple[str, int]] = Rollup(
        "analysis_total",
        version=1,
        table=table,
        reads=frozenset({AnalysisCreated}),
        key=key,
        new=lambda key: (key[0], 0),
        fold=lambda row, _event: (row[0], row[1] + 1),
        load=lambda row: (row[0], row[1]),
        dump=lambda row: row,
    )
    with filled.writer.begin() as connection:
        table.create(connection)
    runtime = with_projections(filled, *PROJECTIONS, new)
    late = [event(tenantid=f"ten_{number % 3}") for number in range(30)]
    append(runtime, *late[:15])  # applied before its history is rebuilt
    drain_all(runtime)
    rebuild_all(runtime, [new])
    append(runtime, *late[15:])
    drain_all(runtime)
    expected: dict[str, int] = {}
    for each in [*EVENTS, *late]:
        expected[each["tenantid"]] = expected.get(each["tenantid"], 0) + (each["type"] == "analysis.created.v1")
    rows = dump(runtime.reader, [table])["analysis_total"]
    assert [row[:3] for row in rows] == [(tenant_id, total, total) for tenant_id, total in sorted(expected.items())]


def test_requests_of_another_release_are_reported_and_stay_pending(filled: Runtime) -> None:
    others = sorted({each.name for each in PROJECTIONS} - {"project"})
    plan_rebuilds(filled)
    outcomes = results_of(rebuilder(filled, [project.projection]).rebuild_pending(["ten_0"], RebuildRequest()))
    assert [outcome.error for outcome in outcomes] == [
        (
            f"UnknownProjectionError: a rebuild of {', '.join(others)} is pending, which this release does not have;"
            " run the release that has it, or begin again with --restart"
        )
    ]
    assert len(pending(filled)["ten_0"]) == len(PROJECTIONS)


def test_memory_holds_no_more_feed_entries_than_the_feed_keeps(runtime: Runtime) -> None:
    append(runtime, *(event("watchdog.evaluated.v1") for _ in range(400)))
    drain_all(runtime)
    refolding = Refold([activity.projection], TENANT, TENANT_PARTITION)
    most = 0
    with runtime.reader.connect() as connection:
        is_last = False
        while not is_last:
            _, is_last = refolding.step(connection)
            most = max(most, sum(len(rows) for model in refolding.models for rows in model.values()))
    assert most == activity.ENTRIES_KEPT
    assert event_log_bodies_read(runtime, [analysis_trend.projection]) == 0


def event_log_bodies_read(runtime: Runtime, projections: Any) -> int:
    refolding = Refold(projections, TENANT, TENANT_PARTITION)
    with runtime.reader.connect() as connection:
        page = log_history.read_history(connection, TENANT, "", 10**9, refolding._skipped_types, 10**6)
        page = [*page, *log_history.read_tail(connection, TENANT_PARTITION, 0, TENANT, refolding._skipped_types, 10**6)]
    return sum(each.body is not None for each in page)


def test_progress_is_reported_in_steps(filled: Runtime) -> None:
    with filled.reader.connect() as connection:
        for tenant_id in ("ten_0", "ten_1", "ten_2", "nobody"):
            expected = sum(each["tenantid"] == tenant_id for each in EVENTS)
            assert tenant_data.count_events(connection, tenant_id) == expected


@pytest.mark.parametrize("kind", ["history", "tail", "count"])
def test_the_log_is_read_through_indexes_only(filled: Runtime, kind: str) -> None:
    seen: list[str] = []
    with filled.reader.connect() as connection:
        explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "

        def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if not statement.startswith("EXPLAIN"):
                plan = connection.exec_driver_sql(explain + statement, parameters)
                seen.append("\n".join(str(row) for row in plan))

        sqlalchemy.event.listen(connection, "before_cursor_execute", note)
        match kind:
            case "history":
                log_history.read_history(connection, "ten_1", "5", 100, ["x"], 10)
            case "tail":
                log_history.read_tail(connection, 1, 5, "ten_1", ["x"], 10)
            case _:
                tenant_data.count_events(connection, "ten_1")
    wanted = "event_log_by_number" if kind == "tail" else "event_log_pkey"
    if explain == "EXPLAIN ":
        assert wanted in seen[0]
        assert "Sort" not in seen[0]
    else:
        assert "SEARCH event_log" in seen[0]
        assert "TEMP B-TREE" not in seen[0]


def test_parallel_processes_inherit_no_connection(filled: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    here, held = rebuilder(filled), list[int]()

    @contextmanager
    def helper(_make: object, _work: object) -> Iterator[None]:
        held.extend(engine.pool.checkedin() + engine.pool.checkedout() for engine in (here.writer, here.reader))  # type: ignore[attr-defined]
        yield

    plan_rebuilds(filled)
    monkeypatch.setattr(parallel, "_start_process", helper)
    assert here.reader.pool.checkedin() > 0  # type: ignore[attr-defined]
    with parallel.run_parallel(here, Rebuilder.compare, ["ten_0", "ten_1"], processes=2):
        assert held == [0, 0, 0, 0]
