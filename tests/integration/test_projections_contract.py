"""The contract suite over every projection in the registry; it covers new projections automatically.

Any order, any repetition, any batch boundaries, and either database produce byte-identical rows.
"""

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from event_stream.events.decoding import decode
from event_stream.events.event import Event
from event_stream.events.event_types import TYPES
from event_stream.events.rfc3339 import format_time
from event_stream.events.upcasting import types_upcast_to
from projections.database.engines import writer_engine
from projections.folding.projection import Projection
from projections.read_models import activity
from projections.read_models.registry import PROJECTIONS
from projections.testing import given as given_events
from tests.support.events import NOW_US, body, event, mixed, spelled_freely

pytestmark = pytest.mark.both_databases
projections = pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda projection: projection.name)


@st.composite
def event_sets(draw: st.DrawFn) -> list[Event]:
    """Draw events for few rows with few distinct times, so that conflicts and ties happen."""
    made = []
    for number in range(draw(st.integers(1, 14))):
        type_ = draw(st.sampled_from(sorted(TYPES)))
        day = draw(st.sampled_from([0, 1, 29, 30, 31, 32, 33, 45]))
        data: dict[str, Any] = {}
        if type_.endswith("created.v1") and type_.startswith("project"):
            data = {"slug": draw(st.sampled_from("ab")), "name": draw(st.sampled_from("xy"))}
        elif type_ == "watchdog.toggled.v1":
            data = {"enabled": draw(st.booleans())}
        made.append(
            event(
                type_,
                data,
                id=f"{draw(st.integers(0, 2**32 - 1)):08x}-0000-4000-8000-{number:012x}",
                tenantid=draw(st.sampled_from(["t1", "t2"])),
                time=format_time(NOW_US - day * 86_400_000_000),
            )
        )
    return [decode(body(each)) for each in made]


@projections
@pytest.mark.hypothesis
def test_any_order_and_batching_produces_byte_identical_rows(projection: Projection, writer: Engine) -> None:
    @given(event_sets(), st.randoms(use_true_random=False))
    @settings(suppress_health_check=[HealthCheck.too_slow])
    def check(events: list[Event], chance: random.Random) -> None:
        repeated = [*events, *chance.choices(events, k=3)]
        expected = given_events(*events).when_stored_by(projection, writer).rows
        shuffled = given_events(*chance.sample(repeated, len(repeated)))
        assert shuffled.when_stored_by(projection, writer).rows == expected

    check()


@projections
@pytest.mark.hypothesis
def test_both_databases_store_byte_identical_rows(projection: Projection, sqlite_url: str, postgres_url: str) -> None:
    engines = [writer_engine(sqlite_url), writer_engine(postgres_url)]

    @given(event_sets(), st.randoms(use_true_random=False))
    @settings(suppress_health_check=[HealthCheck.too_slow])
    def check(events: list[Event], chance: random.Random) -> None:
        one, other = (
            given_events(*chance.sample(events, len(events))).when_stored_by(projection, engine).rows
            for engine in engines
        )
        assert one == other

    check()
    for engine in engines:
        engine.dispose()


@projections
def test_a_thousand_shuffled_events_produce_byte_identical_rows(
    projection: Projection, sqlite_url: str, postgres_url: str
) -> None:
    made = given_events(*spelled_freely(mixed(3000, tenants=2, projects=3)))
    found = []
    for url in (sqlite_url, postgres_url):
        engine = writer_engine(url)
        found.append(made.when_stored_by(projection, engine).rows)
        engine.dispose()
    assert found[0]
    assert found[0] == found[1]


@projections
def test_a_projection_is_named_after_its_table_and_has_a_version(projection: Projection) -> None:
    assert projection.name == projection.table.name
    assert projection.version >= 1


def test_activity_never_holds_more_than_its_newest_hundred(writer: Engine) -> None:
    made = [decode(body(each)) for each in mixed(4000, tenants=1, projects=2, seed=5)]
    rows = given_events(*made).when_stored_by(activity.projection, writer).rows
    assert len(rows) == 200
    for project in {row[1] for row in rows}:
        newest = sorted(
            ((each.time_us, each.id) for each in made if each.project_id == project and "evaluated" in each.type),
        )[-100:]
        assert sorted((row[2], row[3]) for row in rows if row[1] == project) == newest


@pytest.mark.parametrize("type_", TYPES)
def test_every_type_of_event_is_read_by_a_projection(type_: str) -> None:
    assert any(type_ in types_upcast_to(projection.reads) for projection in PROJECTIONS)
