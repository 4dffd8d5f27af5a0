"""`projections.testing` passes projections that keep the rules and fails those that do not."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from event_stream.errors import InvalidEventError
from event_stream.events.decoding import decode
from event_stream.events.event import Event
from event_stream.events.event_types import WatchdogToggled
from projections.folding.projection import Projection
from projections.read_models import activity, analysis_trend, project, tenant
from projections.read_models.analysis_trend import AnalysisTrend
from projections.testing import ALL_ORDERS_UP_TO, given
from tests.support.events import PROJECT, TENANT, body, event

EARLY, LATE = "2026-04-25T10:00:00Z", "2026-04-25T11:00:00Z"
BOUND = [event("support_desk.bound.v1", {"bindingId": f"desk_{number}"}, time=EARLY) for number in range(3)]


def last_comer_wins(row: project.Project, made: Event) -> project.Project:
    match made.data:
        case WatchdogToggled(enabled=enabled):
            return row._replace(watchdog=row.watchdog._replace(value=enabled, stamp=made.stamp))
        case _:
            return project.fold(row, made)


ON, OFF = (event("watchdog.toggled.v1", {"enabled": on}, time=time) for on, time in ((True, EARLY), (False, LATE)))
ORDER_DEPENDENT = replace(project.projection, fold=last_comer_wins)
FORGETFUL = replace(analysis_trend.projection, load=lambda columns: AnalysisTrend(columns[0], columns[1]))
"""A row that is loaded again has lost its counts, so batches matter."""


def test_rows_are_compared_by_the_columns_that_are_named() -> None:
    given(*BOUND).when_folded_by(tenant.projection).then({"tenant_id": TENANT, "support_desk_count": 3})
    given().when_folded_by(tenant.projection).then()


def test_several_rows_come_in_the_order_of_their_keys() -> None:
    two = [event(tenantid=tenant_id) for tenant_id in ("ten_b", "ten_a", "ten_b")]
    given(*two).when_folded_by(analysis_trend.projection).then(
        {"tenant_id": "ten_a", "total": 1}, {"tenant_id": "ten_b", "total": 2}
    )


def test_decoded_events_are_accepted_and_a_repeat_counts_once() -> None:
    made = event()
    given(made, decode(body(made)), made).when_folded_by(analysis_trend.projection).then({"total": 1})


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        ([{"support_desk_count": 2}], "expected {'support_desk_count': 2}, found {'support_desk_count': 3}"),
        ([{"support_desk_counts": 3}], "no such column: support_desk_counts; the columns are"),
        ([], "expected 0 rows, found 1"),
        ([{}, {}], "expected 2 rows, found 1"),
    ],
)
def test_other_rows_fail(expected: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        given(*BOUND).when_folded_by(tenant.projection).then(*expected)


@pytest.mark.parametrize("others", [0, ALL_ORDERS_UP_TO + 5], ids=["all orders", "shuffles"])
def test_a_fold_that_depends_on_the_order_fails(others: int) -> None:
    events = [ON, OFF, *(event("repo.connected.v1", {"repoId": f"repo_{number}"}) for number in range(others))]
    given(*events).when_folded_by(project.projection).then({"project_id": PROJECT, "watchdog_enabled": False})
    with pytest.raises(AssertionError, match="the rows of projection project depend on the order"):
        given(*events).when_folded_by(ORDER_DEPENDENT)


def test_a_row_that_does_not_survive_being_stored_fails() -> None:
    with pytest.raises(AssertionError, match="the rows of projection analysis_trend depend on the order or batches"):
        given(event(), event()).when_folded_by(FORGETFUL)


@pytest.mark.parametrize("projection", [ORDER_DEPENDENT, FORGETFUL], ids=lambda projection: projection.name)
def test_a_projection_whose_live_rows_are_not_those_of_a_rebuild_fails(writer: Engine, projection: Projection) -> None:
    with pytest.raises(AssertionError, match=f"the rows of projection {projection.name} depend on the order"):
        given(ON, OFF, event(), event()).when_stored_by(projection, writer)


def test_a_read_model_in_the_database_stays_as_it_was(writer: Engine) -> None:
    evaluated = event("watchdog.evaluated.v1", time=EARLY)
    for _ in range(2):
        given(evaluated).when_stored_by(activity.projection, writer).then({"event_id": evaluated["id"]})
    with writer.connect() as connection:
        assert connection.execute(activity.table.select()).all() == []


def test_an_invalid_event_and_a_repeated_id_are_refused() -> None:
    with pytest.raises(InvalidEventError):
        given(event("watchdog.toggled.v1", {"enabled": "yes"}))
    with pytest.raises(ValueError, match="two different events have the event key"):
        given(ON, OFF | {"id": ON["id"]})
