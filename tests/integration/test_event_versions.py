"""Event versions on both databases: rows do not depend on the version of an event or on when a release learnt it."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from event_stream.events.decoding import decode
from event_stream.events.event import partition_of
from event_stream.events.upcasting import upcast
from projections.database.columns import Row
from projections.folding.projection import Model, upcast_all
from projections.folding.rollup import Rollup
from projections.lifecycle.dead_letter_admin import Selection
from projections.lifecycle.verify import find_log_mismatch, find_row_mismatches
from projections.read_models import project
from projections.read_models.registry import PROJECTIONS
from projections.transaction import event_log
from projections.transaction.dead_letters import APPLIED, OPEN
from tests.support.events import TENANT, body, event, mixed
from tests.support.harness import append, drain_all, dump, stored_dead_letters, totals, with_projections
from tests.support.invariants import assert_fully_projected
from tests.support.later_release import WatchdogToggledV3, later_release, native
from tests.support.rebuilds import differing, rebuild_all
from workers.drain import circuit_breaker
from workers.drain.batch_size import BatchSize
from workers.drain.circuit_breaker import CircuitBreaker
from workers.drain.drainer import Drainer, run
from workers.jobs.lease import Lease
from workers.maintenance.replay import replay
from workers.runtime import Runtime

TENANT_PARTITION = partition_of(TENANT, 4)
EVENTS = list(mixed(300, tenants=3, projects=3))
OF_TYPES_TO_COME = ("watchdog.evaluated.v1", "watchdog.toggled.v1")


def written(events: Sequence[dict[str, Any]], seed: int = 1) -> list[dict[str, Any]]:
    """Return events in random versions and in random order."""
    chance = random.Random(seed)
    return [native(each, chance.randrange(1, 4)) for each in chance.sample(events, len(events))]


def folded(events: Sequence[dict[str, Any]]) -> dict[str, list[Row]]:
    """Return the rows that this release folds from events in memory."""
    rows = {}
    for projection in PROJECTIONS:
        model: Model = {}
        projection.fold_into(model, upcast_all([decode(body(each)) for each in events]))
        rows[projection.name] = sorted(row for group in model.values() for row in group)
    return rows


FOLDED = folded(EVENTS)  # before any test installs a later release


def assert_proven(runtime: Runtime) -> None:
    """Verify the read models against the log, by row checksums and by a refold."""
    with runtime.reader.connect() as connection:
        for tenant in {row[0] for rows in dump(runtime.reader).values() for row in rows}:
            for projection in runtime.projections:
                assert find_row_mismatches(connection, projection, tenant) == []
        assert [find_log_mismatch(connection, partition) for partition in range(4)] == [None] * 4
    assert differing(rebuild_all(runtime)) == {}


def replay_unknown(runtime: Runtime) -> int:
    return replay(runtime, Selection(reason="unknown_type")).appended


def test_rows_do_not_depend_on_the_version_in_which_an_event_was_written(runtime: Runtime) -> None:
    sent = written(EVENTS)
    with later_release() as projections:
        later = with_projections(runtime, *projections)
        append(later, *sent)
        drain_all(later)
        assert dump(later.reader) == FOLDED
        assert_fully_projected(later, EVENTS)
        assert_proven(later)


def test_the_log_keeps_type_and_bytes_as_received_and_identity_goes_by_them(runtime: Runtime) -> None:
    sent = written(EVENTS)
    old = next(each for each in sent if each["type"] == "watchdog.toggled.v1")
    with later_release() as projections:
        later = with_projections(runtime, *projections)
        append(later, *sent, old, native(old, 3))
        drain_all(later)
        log = dump(later.reader, [event_log.table])["event_log"]
        assert {(row[1], row[4], row[7]) for row in log} == {(e["id"], e["type"], body(e)) for e in sent}
        assert len({row[4] for row in log} & {"watchdog.toggled.v1", "watchdog.toggled.v2", "watchdog.toggled.v3"}) == 3
        assert totals(later) == {"read": 302, "applied": 300, "duplicates": 1, "dead_lettered": 1, "lost": 0}
        assert [dead_letter.reason for dead_letter in stored_dead_letters(later)] == ["id_conflict"]
        assert_proven(later)


def test_an_upgrade_changes_no_row_and_projection_continues(runtime: Runtime) -> None:
    append(runtime, *EVENTS[:150])
    drain_all(runtime)
    before = dump(runtime.reader)
    with later_release() as projections:
        later = with_projections(runtime, *projections)
        assert_proven(later)
        assert dump(later.reader) == before
        append(later, *written(EVENTS[150:]))
        drain_all(later)
        assert dump(later.reader) == FOLDED
        assert_fully_projected(later, EVENTS)
        assert_proven(later)


def test_an_event_of_a_later_version_is_a_dead_letter_until_the_upgrade(runtime: Runtime) -> None:
    sent = written(EVENTS)
    ahead = {each["id"] for each in sent if each["type"].endswith((".v2", ".v3"))}
    append(runtime, *sent)
    drain_all(runtime)
    assert {dead_letter.event_id for dead_letter in stored_dead_letters(runtime)} == ahead
    assert {dead_letter.reason for dead_letter in stored_dead_letters(runtime)} == {"unknown_type"}
    assert all(
        "this one supports versions up to v1); upgrade" in dead_letter.detail
        for dead_letter in stored_dead_letters(runtime)
    )
    assert dump(runtime.reader) == folded([each for each in EVENTS if each["id"] not in ahead])
    assert_proven(runtime)
    assert replay_unknown(runtime) == len(ahead)  # too early: they are only seen again
    drain_all(runtime)
    assert {(dead_letter.state, dead_letter.times_seen) for dead_letter in stored_dead_letters(runtime)} == {(OPEN, 2)}
    with later_release() as projections:
        later = with_projections(runtime, *projections)
        assert replay_unknown(later) == len(ahead)
        drain_all(later)
        assert {dead_letter.state for dead_letter in stored_dead_letters(later)} == {APPLIED}
        assert dump(later.reader) == FOLDED
        assert_fully_projected(later, EVENTS)
        assert_proven(later)


def test_old_workers_beside_new_ones_and_newer_producers_lose_nothing(runtime: Runtime) -> None:
    """Both releases drain every partition in turn, in small batches; each must meet events only one of them knows."""
    made = EVENTS[:120]
    sent, expected = written(made), folded(made)
    old, new = [[Drainer(runtime, partition) for partition in range(4)] for _ in range(2)]
    for first in range(0, len(sent), 40):
        append(runtime, *sent[first : first + 40])
        _take_turns(runtime, old, new)
    parked, log = totals(runtime)["dead_lettered"], dump(runtime.reader, [event_log.table])["event_log"]
    assert parked > 5
    assert sum(row[4].endswith((".v2", ".v3")) for row in log) > 5
    with later_release() as projections:
        later = with_projections(runtime, *projections)
        assert replay_unknown(later) == parked
        drain_all(later)
        assert {dead_letter.state for dead_letter in stored_dead_letters(later)} == {APPLIED}
        assert dump(later.reader) == expected
        assert_fully_projected(later, made)
        assert_proven(later)


def _take_turns(runtime: Runtime, old: Sequence[Drainer], new: Sequence[Drainer]) -> None:
    left = set(range(4))
    while left:
        with later_release() as projections:
            for partition in left:
                new[partition].runtime = with_projections(runtime, *projections)
                _step(new[partition])
        left = {partition for partition in left if not _step(old[partition])}


def _step(drainer: Drainer) -> bool:
    drainer.last_checkpoint = None  # the other release has moved the checkpoint
    drainer.batch_size.count = 5
    return drainer.step()


def test_an_older_worker_leaves_rows_of_a_newer_one_unchanged(runtime: Runtime) -> None:
    made = native(event("watchdog.toggled.v1"), 3)
    with later_release() as projections:
        append(runtime, made, event("project.created.v1"))
        drain_all(with_projections(runtime, *projections))
    before = dump(runtime.reader)
    (outcome,) = rebuild_all(runtime)
    assert f"event {made['id']} of tenant {TENANT} cannot be decoded any more" in str(outcome.error)
    append(runtime, made)  # a producer's retry
    drain_all(runtime)
    assert [(dead_letter.reason, dead_letter.state) for dead_letter in stored_dead_letters(runtime)] == [
        ("unknown_type", APPLIED)
    ]
    assert dump(runtime.reader) == before
    with later_release() as projections:
        assert_proven(with_projections(runtime, *projections))


def _fails_on(poison: str) -> Any:
    """Return an upcaster from v2 to v3 with a bug that affects one kind of old event."""

    def fails(old: Any) -> Any:
        if old.state == poison:
            raise ValueError(poison)
        return WatchdogToggledV3(mode="watching")

    return fails


def test_an_event_whose_upcaster_fails_is_parked_alone_and_replayed_by_the_fixed_release(
    runtime: Runtime,
) -> None:
    poison = event("watchdog.toggled.v1", {"enabled": False})
    made = [
        event("project.created.v1"),
        *(event("watchdog.toggled.v1") for _ in range(20)),
        poison,
        *(event() for _ in range(20)),
    ]
    append(runtime, *made)
    with later_release({"watchdog.toggled.v2": _fails_on("off")}) as projections:
        later = with_projections(runtime, *projections)
        drain_all(later)
        (dead_letter,) = stored_dead_letters(later)
        assert (dead_letter.event_id, dead_letter.reason) == (poison["id"], "fold_failed")
        assert "the upcaster of watchdog.toggled.v1 failed with ValueError" in dead_letter.detail
        assert totals(later) == {"read": 42, "applied": 41, "duplicates": 0, "dead_lettered": 1, "lost": 0}
        assert_proven(later)
    with later_release() as projections:
        later = with_projections(runtime, *projections)
        assert replay(later, Selection(reason="fold_failed")).appended == 1
        drain_all(later)
        assert [dead_letter.state for dead_letter in stored_dead_letters(later)] == [APPLIED]
        assert_fully_projected(later, made)


def test_a_fold_that_fails_on_an_old_event_in_the_middle_of_a_batch_names_that_event(runtime: Runtime) -> None:
    poison = event("watchdog.toggled.v1", {"enabled": False})
    append(runtime, *(event() for _ in range(10)), poison, *(event() for _ in range(10)))

    def fold(row: project.Project, made: Any) -> project.Project:
        raise KeyError(made.id)

    with later_release() as projections:
        broken = [
            replace(each, fold=fold) if isinstance(each, Rollup) and each.name == "project" else each
            for each in projections
        ]
        drainer = Drainer(with_projections(runtime, *broken), TENANT_PARTITION, BatchSize(21))
        with pytest.raises(Exception, match="projection project failed with KeyError") as caught:
            drainer.step()
        drainer.recovery.isolate(caught.value, drainer.attempted)
        assert drainer.batch_size.count == 10  # the events before it are applied


def test_an_upcaster_that_fails_for_most_tenants_parks_almost_nothing(runtime: Runtime) -> None:
    made = [event("watchdog.toggled.v1", tenantid=f"t{number}") for number in range(40)]
    append(runtime, *made)
    with later_release({"watchdog.toggled.v2": _fails_on("on")}) as projections:
        broken, shared = with_projections(runtime, *projections), CircuitBreaker()
        for partition in [*range(4), *range(4)]:
            run(Drainer(broken, partition, breaker=shared), Lease(runtime.queue.connection, partition), budget_s=5)
        assert totals(broken) == {"read": 1, "applied": 0, "duplicates": 0, "dead_lettered": 1, "lost": 0}
        assert "the upcaster of watchdog.toggled.v1 failed" in str(circuit_breaker.read(runtime.queue.connection))
    runtime.queue.connection.delete(*(f"projector:drain-lease:{{{partition}}}" for partition in range(4)))
    with later_release() as projections:
        later = with_projections(runtime, *projections)
        drain_all(later)
        replay(later, Selection())
        drain_all(later)
        assert_fully_projected(later, made)


def test_a_rebuild_names_the_event_whose_upcaster_fails_and_leaves_its_tenant_unchanged(runtime: Runtime) -> None:
    poison = event("watchdog.toggled.v1", {"enabled": False})
    append(runtime, poison, *EVENTS)
    drain_all(runtime)
    before = dump(runtime.reader)
    with later_release({"watchdog.toggled.v2": _fails_on("off")}) as projections:
        outcomes = rebuild_all(with_projections(runtime, *projections))
    failed = {outcome.tenant_id: str(outcome.error) for outcome in outcomes if outcome.error}
    assert f"event {poison['id']} of tenant {TENANT}: FoldError: the upcaster of watchdog.toggled.v1" in failed[TENANT]
    assert dump(runtime.reader) == before


@given(st.permutations(range(12)), st.lists(st.integers(1, 3), min_size=12, max_size=12), st.integers(1, 12))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_order_batching_and_mixture_of_versions_produces_byte_identical_rows(
    order: Sequence[int], versions: Sequence[int], size: int
) -> None:
    made = [each for each in EVENTS if each["type"] in OF_TYPES_TO_COME][:12]
    mixture = [native(made[index], version) for index, version in zip(order, versions, strict=True)]
    with later_release() as projections:
        for projection in projections:
            model: Model = {}
            for first in range(0, len(mixture), size):
                batch = [upcast(decode(body(each))) for each in mixture[first : first + size]]
                projection.fold_into(model, batch)
            rows = sorted(row for group in model.values() for row in group)
            assert rows == EXPECTED[projection.name], projection.name


EXPECTED: Mapping[str, list[Row]] = folded([each for each in EVENTS if each["type"] in OF_TYPES_TO_COME][:12])
