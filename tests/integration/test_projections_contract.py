"""The contract suite over every projection in the registry: a new one is covered the day its line lands.

Any order, any repetition, any batch boundaries, and either database give byte-identical rows.
"""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from event_stream.decoding import decode
from event_stream.envelope import time_text
from event_stream.types import TYPES, Event
from event_stream.versions import types_of
from projections.projection import Model, Projection
from projections.registry import PROJECTIONS
from projections.store import reader_engine, writer_engine
from tests.support.driving import dump
from tests.support.events import NOW_US, body, event, mixed

projections = pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda projection: projection.name)


@st.composite
def event_sets(draw: st.DrawFn) -> list[Event]:
    """Draw events that meet in few rows, with few distinct times, so that facts collide and ties happen."""
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
                time=time_text(NOW_US - day * 86_400_000_000),
            )
        )
    return [decode(body(each)) for each in made]


def rows_after(projection: Projection, engines: tuple[Engine, Engine], batches: Sequence[Sequence[Event]]) -> Any:
    """Return the read model's rows after distinct events in these batches, and leave it empty again."""
    writer, reader = engines
    with writer.begin() as connection:
        connection.execute(projection.table.delete())
    for batch in batches:
        with writer.begin() as connection:
            model = projection.fetch(connection, batch)
            projection.fold_into(model, batch)
            projection.store(connection, model)
    return dump(reader, [projection.table])


def rows_folded(projection: Projection, batches: Sequence[Sequence[Event]]) -> Any:
    """Return the rows that a rebuild folds in memory."""
    model: Model = {}
    for batch in batches:
        projection.fold_into(model, batch)
    return {projection.table.name: sorted(row for rows in model.values() for row in rows)}


def batched(events: Sequence[Event], chance: random.Random) -> list[list[Event]]:
    batches: list[list[Event]] = [[]]
    for each in events:
        if chance.random() < 0.4:
            batches.append([])
        batches[-1].append(each)
    return batches


@projections
def test_any_order_and_batching_gives_the_same_bytes(projection: Projection, writer: Engine, reader: Engine) -> None:
    @given(event_sets(), st.randoms(use_true_random=False))
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def check(events: list[Event], chance: random.Random) -> None:
        expected = rows_after(projection, (writer, reader), [events])
        shuffled = chance.sample(events, len(events))
        assert rows_after(projection, (writer, reader), batched(shuffled, chance)) == expected
        assert rows_after(projection, (writer, reader), [[each] for each in reversed(events)]) == expected
        assert rows_folded(projection, batched(shuffled, chance)) == expected

    check()


@projections
def test_both_databases_hold_the_same_bytes(projection: Projection, sqlite_url: str, postgres_url: str) -> None:
    sqlite = (writer_engine(sqlite_url), reader_engine(sqlite_url))
    postgres = (writer_engine(postgres_url), reader_engine(postgres_url))

    @given(event_sets(), st.randoms(use_true_random=False))
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def check(events: list[Event], chance: random.Random) -> None:
        one = rows_after(projection, sqlite, batched(events, chance))
        other = rows_after(projection, postgres, batched(chance.sample(events, len(events)), chance))
        assert one == other

    check()
    for engine in (*sqlite, *postgres):
        engine.dispose()


@projections
def test_a_thousand_mixed_events_shuffled_give_the_same_bytes(
    projection: Projection, sqlite_url: str, postgres_url: str
) -> None:
    events = [decode(body(each)) for each in mixed(3000, tenants=2, projects=3)]
    chance = random.Random(7)
    found = []
    for url in (sqlite_url, postgres_url):
        engines = (writer_engine(url), reader_engine(url))
        found.append(rows_after(projection, engines, batched(chance.sample(events, len(events)), chance)))
        found.append(rows_after(projection, engines, [events]))
        found.append(rows_folded(projection, batched(chance.sample(events, len(events)), chance)))
        for engine in engines:
            engine.dispose()
    assert found[0][projection.table.name]
    assert all(rows == found[0] for rows in found)


@projections
def test_a_projection_is_named_after_its_table_and_has_a_version(projection: Projection) -> None:
    assert projection.name == projection.table.name
    assert projection.version >= 1


def test_activity_never_holds_more_than_its_newest_hundred(writer: Engine, reader: Engine) -> None:
    projection = next(each for each in PROJECTIONS if each.name == "activity")
    made = [decode(body(each)) for each in mixed(4000, tenants=1, projects=2, seed=5)]
    rows = rows_after(projection, (writer, reader), [made[:50], made[50:1000], made[1000:]])["activity"]
    assert len(rows) == 200
    for project in {row[1] for row in rows}:
        newest = sorted(
            ((each.time_us, each.id) for each in made if each.project_id == project and "evaluated" in each.type),
        )[-100:]
        assert sorted((row[2], row[3]) for row in rows if row[1] == project) == newest


@pytest.mark.parametrize("type_", TYPES)
def test_every_type_of_event_is_one_projections_business(type_: str) -> None:
    assert sum(type_ in types_of(projection.reads) for projection in PROJECTIONS) == 1
