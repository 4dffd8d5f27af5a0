"""Versions of an event, on both databases: rows do not tell in which of them a fact was written, nor when we learnt it."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from event_stream.decoding import decode
from event_stream.event_types import partition_of
from event_stream.upcasting import upcast
from projections.database.columns import Row
from projections.folding.projection import Model, Rollup
from projections.lifecycle.dead_letter_admin import Selection
from projections.lifecycle.verify import log_fault, mismatches
from projections.read_models import project
from projections.read_models.registry import PROJECTIONS
from projections.transaction import event_log
from projections.transaction.dead_letters import APPLIED, OPEN
from tests.support.driving import append, drain_all, dump, letters, totals, with_projections
from tests.support.events import TENANT, body, event, mixed
from tests.support.later_release import WatchdogToggledV3, later_release, native
from tests.support.law import assert_all_is_well
from tests.support.rebuilding import differing, rebuild_all
from workers.drain import circuit_breaker
from workers.drain.batch_size import BatchSize
from workers.drain.circuit_breaker import CircuitBreaker
from workers.drain.drainer import Drainer, run
from workers.jobs.lease import Lease
from workers.maintenance.replay import replay
from workers.runtime import Runtime

HOME = partition_of(TENANT, 4)
EVENTS = list(mixed(300, tenants=3, projects=3))
OF_TYPES_TO_COME = ("watchdog.evaluated.v1", "watchdog.toggled.v1")


def written(events: Sequence[dict[str, Any]], seed: int = 1) -> list[dict[str, Any]]:
    """Return events as many producers write them, each in some version, in any order."""
    chance = random.Random(seed)
    return [native(each, chance.randrange(1, 4)) for each in chance.sample(events, len(events))]


def folded(events: Sequence[dict[str, Any]]) -> dict[str, list[Row]]:
    """Return the rows that this release, which knows the first versions only, folds from events in memory."""
    rows = {}
    for projection in PROJECTIONS:
        model: Model = {}
        projection.fold_into(model, [decode(body(each)) for each in events])
        rows[projection.name] = sorted(row for group in model.values() for row in group)
    return rows


def assert_proven(runtime: Runtime) -> None:
    """Check the read models against the log by both means, the sums and folding it anew."""
    with runtime.reader.connect() as connection:
        for tenant in {row[0] for rows in dump(runtime.reader).values() for row in rows}:
            for projection in runtime.projections:
                assert mismatches(connection, projection, tenant) == []
        assert [log_fault(connection, partition) for partition in range(4)] == [None] * 4
    assert differing(rebuild_all(runtime)) == {}


def replay_unknown(runtime: Runtime) -> int:
    return replay(runtime, Selection(reason="unknown_type")).appended


def test_rows_do_not_tell_in_which_version_an_event_was_written(runtime: Runtime) -> None:
    sent = written(EVENTS)
    with later_release() as projections:
        later = with_projections(runtime, *projections)
        append(later, *sent)
        drain_all(later)
        assert dump(later.reader) == folded(EVENTS)
        assert_all_is_well(later, EVENTS)
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
        assert [letter.reason for letter in letters(later)] == ["id_conflict"]
        assert_proven(later)


def test_an_upgrade_changes_no_row_and_goes_on(runtime: Runtime) -> None:
    append(runtime, *EVENTS[:150])
    drain_all(runtime)
    before = dump(runtime.reader)
    with later_release() as projections:
        later = with_projections(runtime, *projections)
        assert_proven(later)
        assert dump(later.reader) == before
        append(later, *written(EVENTS[150:]))
        drain_all(later)
        assert dump(later.reader) == folded(EVENTS)
        assert_all_is_well(later, EVENTS)
        assert_proven(later)


def test_an_event_of_a_later_version_waits_as_a_letter_for_the_upgrade(runtime: Runtime) -> None:
    sent = written(EVENTS)
    ahead = {each["id"] for each in sent if each["type"].endswith((".v2", ".v3"))}
    append(runtime, *sent)
    drain_all(runtime)
    assert {letter.event_id for letter in letters(runtime)} == ahead
    assert {letter.reason for letter in letters(runtime)} == {"unknown_type"}
    assert all("this one knows up to v1: upgrade" in letter.detail for letter in letters(runtime))
    assert dump(runtime.reader) == folded([each for each in EVENTS if each["id"] not in ahead])
    assert_proven(runtime)
    assert replay_unknown(runtime) == len(ahead)  # too early: they are only seen once more
    drain_all(runtime)
    assert {(letter.state, letter.times_seen) for letter in letters(runtime)} == {(OPEN, 2)}
    with later_release() as projections:
        later = with_projections(runtime, *projections)
        assert replay_unknown(later) == len(ahead)
        drain_all(later)
        assert {letter.state for letter in letters(later)} == {APPLIED}
        assert dump(later.reader) == folded(EVENTS)
        assert_all_is_well(later, EVENTS)
        assert_proven(later)


def test_old_workers_beside_new_ones_and_newer_producers_lose_nothing(runtime: Runtime) -> None:
    """Both releases take turns at every partition, in small batches; each must have met what only one of them knows."""
    made = EVENTS[:120]
    sent = written(made)
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
        assert {letter.state for letter in letters(later)} == {APPLIED}
        assert dump(later.reader) == folded(made)
        assert_all_is_well(later, made)
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
    drainer.at = None  # the other has moved the checkpoint meanwhile
    drainer.pace.count = 5
    return drainer.step()


def test_what_a_newer_worker_applied_an_older_one_leaves_as_it_is(runtime: Runtime) -> None:
    made = native(event("watchdog.toggled.v1"), 3)
    with later_release() as projections:
        append(runtime, made, event("project.created.v1"))
        drain_all(with_projections(runtime, *projections))
    before = dump(runtime.reader)
    (outcome,) = rebuild_all(runtime)
    assert f"event {made['id']} of tenant {TENANT} cannot be decoded any more" in str(outcome.error)
    append(runtime, made)  # a producer's retry
    drain_all(runtime)
    assert [(letter.reason, letter.state) for letter in letters(runtime)] == [("unknown_type", APPLIED)]
    assert dump(runtime.reader) == before
    with later_release() as projections:
        assert_proven(with_projections(runtime, *projections))


def _fails_on(poison: str) -> Any:
    """Return a step from v2 to v3 with a bug that shows on one kind of old event only."""

    def fails(old: Any) -> Any:
        if old.state == poison:
            raise ValueError(poison)
        return WatchdogToggledV3(mode="watching")

    return fails


def test_an_event_that_an_upcaster_fails_on_is_parked_alone_and_replayed_by_the_release_that_mends_it(
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
        (letter,) = letters(later)
        assert (letter.event_id, letter.reason) == (poison["id"], "fold_failed")
        assert "the upcaster of watchdog.toggled.v1 failed with ValueError" in letter.detail
        assert totals(later) == {"read": 42, "applied": 41, "duplicates": 0, "dead_lettered": 1, "lost": 0}
        assert_proven(later)
    with later_release() as projections:
        later = with_projections(runtime, *projections)
        assert replay(later, Selection(reason="fold_failed")).appended == 1
        drain_all(later)
        assert [letter.state for letter in letters(later)] == [APPLIED]
        assert_all_is_well(later, made)


def test_a_fold_that_fails_on_an_old_event_in_the_middle_of_a_batch_is_told_which_it_was(runtime: Runtime) -> None:
    poison = event("watchdog.toggled.v1", {"enabled": False})
    append(runtime, *(event() for _ in range(10)), poison, *(event() for _ in range(10)))

    def fold(row: project.Project, made: Any) -> project.Project:
        raise KeyError(made.id)

    with later_release() as projections:
        broken = [
            replace(each, fold=fold) if isinstance(each, Rollup) and each.name == "project" else each
            for each in projections
        ]
        drainer = Drainer(with_projections(runtime, *broken), HOME, BatchSize(21))
        with pytest.raises(Exception, match="projection project failed with KeyError") as caught:
            drainer.step()
        drainer.blame(caught.value)
        assert drainer.pace.count == 10  # what stands before it can go ahead


def test_an_upcaster_that_fails_for_most_tenants_parks_next_to_nothing(runtime: Runtime) -> None:
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
        assert_all_is_well(later, made)


def test_a_rebuild_names_the_event_that_an_upcaster_fails_on_and_leaves_its_tenant(runtime: Runtime) -> None:
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
def test_any_order_batching_and_mixture_of_versions_gives_the_same_bytes(
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
