"""What the folds compute, one rule at a time: `after(*events) == row`."""

import json
import time
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_stream.events.decoding import decode
from event_stream.events.upcasting import upcast
from projections.folding.lww import LWWRegister, LWWSet
from projections.read_models import activity, analysis_trend, project, tenant
from tests.support.events import PROJECT, TENANT, body, event

EARLY, LATE = "2026-04-25T10:00:00Z", "2026-04-25T11:00:00Z"
LOW, HIGH = "00000000-0000-4000-8000-000000000001", "ffffffff-0000-4000-8000-000000000001"


def project_after(*events: dict[str, Any]) -> project.Project:
    row = project.Project(TENANT, PROJECT)
    for made in events:
        decoded = upcast(decode(body(made)))
        assert type(decoded.data) in project.projection.reads
        assert project.projection.key(decoded) == (TENANT, PROJECT)
        row = project.fold(row, decoded)
    return row


def test_the_latest_of_created_and_deleted_decides_whether_a_project_exists() -> None:
    created, deleted = event("project.created.v1", time=EARLY), event("project.deleted.v1", time=LATE)
    again = event("project.created.v1", time="2026-04-25T12:00:00Z")
    assert project_after(created).exists.value
    assert not project_after(created, deleted).exists.value
    assert not project_after(deleted, created).exists.value
    assert project_after(deleted, again, created).exists.value


def test_equal_times_are_decided_by_the_event_id() -> None:
    on, off = (event("watchdog.toggled.v1", {"enabled": e}, time=EARLY, id=i) for e, i in ((True, LOW), (False, HIGH)))
    assert not project_after(on, off).watchdog.value
    assert not project_after(off, on).watchdog.value


def test_an_update_sets_the_members_it_names_and_nothing_else() -> None:
    created = event("project.created.v1", {"slug": "a", "name": "A"}, time=EARLY)
    renamed = event("project.updated.v1", {"slug": None, "name": "B"}, time=LATE)
    row = project_after(created, renamed)
    assert (row.slug.value, row.name.value) == ("a", "B")
    assert project_after(renamed, created) == row
    empty = event("project.updated.v1", {"slug": None, "name": None}, time=LATE)
    assert project_after(created, empty) == project_after(created)


def test_deleting_and_creating_again_keeps_memberships() -> None:
    row = project_after(
        event("project.created.v1", time=EARLY),
        event("repo.connected.v1", time=EARLY),
        event("project.deleted.v1", time=LATE),
        event("project.created.v1", time="2026-04-25T12:00:00Z"),
    )
    assert row.repos.count == 1


@pytest.mark.parametrize(
    ("added", "removed", "attribute"),
    [
        ("log_source.added.v1", "log_source.removed.v1", "log_sources"),
        ("repo.connected.v1", "repo.disconnected.v1", "repos"),
        ("notification_channel.added.v1", "notification_channel.removed.v1", "notification_channels"),
    ],
)
def test_memberships_count_distinct_present_ids(added: str, removed: str, attribute: str) -> None:
    once, twice, gone = event(added, time=EARLY), event(added, time=EARLY), event(removed, time=LATE)
    assert getattr(project_after(once, twice), attribute).count == 1
    assert getattr(project_after(gone, once), attribute).count == 0
    assert getattr(project_after(once, gone), attribute).count == 0


def test_a_membership_survives_being_stored() -> None:
    members = LWWSet().set("b", True, (2, LOW)).set("a", False, (1, HIGH)).set('"ü', True, (3, LOW))
    assert LWWSet.from_json(members.to_json()) == members
    assert members.count == 2


@given(
    st.lists(
        st.tuples(
            st.integers(0, 50), st.sampled_from("abc"), st.booleans(), st.integers(1, 5), st.sampled_from([LOW, HIGH])
        ),
        max_size=50,
    )
)
def test_every_set_stays_as_it_is_whatever_follows_from_it(changes: list[tuple[int, str, bool, int, str]]) -> None:
    sets, expected = [LWWSet()], [dict[str, list[Any]]()]
    for number, member, present, time_us, id_ in changes:
        base = number % len(sets)
        sets.append(sets[base].set(member, present, (time_us, id_)))
        before = expected[base].get(member, [False, -1, ""])
        register = [present, time_us, id_] if (time_us, id_) > tuple(before[1:]) else before
        expected.append({**expected[base], member: register})
    assert [json.loads(each.to_json()) for each in sets] == expected
    assert [each.count for each in sets] == [sum(register[0] for register in each.values()) for each in expected]


def test_a_change_does_not_copy_a_set_of_100_000_ids() -> None:
    registers = {f"{number:06}": [True, 1, LOW] for number in range(100_000)}
    members = LWWSet.from_json(json.dumps(registers))
    began_s = time.process_time()
    for number in range(1000):
        members = members.set(f"{number:06}", False, (2, LOW))
    changed_s = time.process_time()
    for _ in range(200):
        dict(registers)
    assert changed_s - began_s < time.process_time() - changed_s
    assert members.count == 99_000


def test_a_register_changes_only_with_a_later_stamp() -> None:
    fact = LWWRegister("old", (5, LOW))
    assert fact.set("new", (5, LOW)) is fact
    assert fact.set("new", (4, HIGH)) is fact
    assert fact.set("new", (5, HIGH)).value == "new"


def test_support_desks_belong_to_the_tenant() -> None:
    bound = decode(body(event("support_desk.bound.v1")))
    assert tenant.key(bound) == (TENANT,)
    assert tenant.fold(tenant.Tenant(TENANT), bound).support_desks.count == 1


def trend_after(*days: int) -> analysis_trend.AnalysisTrend:
    row = analysis_trend.AnalysisTrend(TENANT, PROJECT)
    for day in days:
        made = decode(body(event(time=f"{_date(day)}T12:00:00Z")))
        assert analysis_trend.projection.key(made) == (TENANT, PROJECT)
        row = analysis_trend.fold(row, made)
    return row


def _date(day: int) -> str:
    return date.fromordinal(date(1970, 1, 1).toordinal() + day).isoformat()


def test_day_buckets_keep_recent_days_and_the_total_counts_all_days() -> None:
    assert trend_after(100, 100, 131) == trend_after(131, 100, 100)
    assert trend_after(100, 100, 131).by_day == {100: 2, 131: 1}
    assert trend_after(100, 132).by_day == {132: 1}
    assert trend_after(132, 100).by_day == {132: 1}
    assert trend_after(132, 100).total == 2


def test_a_day_is_utc() -> None:
    made = decode(body(event(time="2026-04-26T01:30:00+02:00")))
    row = analysis_trend.fold(analysis_trend.AnalysisTrend(TENANT, PROJECT), made)
    assert _date(next(iter(row.by_day))) == "2026-04-25"


def test_an_evaluation_is_stored_in_the_form_that_readers_receive() -> None:
    made = event("watchdog.evaluated.v1", time="2026-04-25T14:30:12.50Z")
    row = activity.entry(decode(body(made)))
    assert row[4] == (
        '{"timestamp":"2026-04-25T14:30:12.5Z","ruleId":"wdg_a1b2","ruleName":"Checkout error spike","passed":false,'
        '"alertFired":true,"suppressedReason":null,"severity":"high","summary":"Error count is 4.1× the recent baseline"}'
    )
