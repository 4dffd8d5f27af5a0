"""Helpers that test a projection: given events, when folded in any order, then the expected rows.

    from projections.testing import given

    given(failed, passed).when_folded_by(open_alerts.projection).then({"rule_count": 0})
    given(failed, passed).when_stored_by(open_alerts.projection, engine).then({"rule_count": 0})

Both first raise AssertionError if the rows depend on the order of the events or on how they are batched. Orders come
from fixed seeds, so a failure repeats.
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, permutations
from typing import Any, TypeAlias

from sqlalchemy import Connection, Engine, delete, select

from event_stream.events.decoding import decode
from event_stream.events.event import Event, Identity
from projections.database.columns import Row
from projections.folding.projection import Model, Projection, upcast_all

ALL_ORDERS_UP_TO = 5
SHUFFLES = 100
BATCHES_MAX = 20

Batches: TypeAlias = Sequence[Sequence[Event]]
Rows: TypeAlias = tuple[Row, ...]


def given(*events: Mapping[str, Any] | Event) -> "Given":
    """Return the events to fold, each given as a CloudEvents mapping or as an `Event`.

    A repeated event counts once, as in the event log. Raises InvalidEventError for an invalid event, and ValueError for
    two different events with one id.
    """
    distinct: dict[Identity, Event] = {}
    for each in events:
        event = each if isinstance(each, Event) else decode(json.dumps(each).encode())
        if distinct.setdefault(event.identity, event) != event:
            raise ValueError(f"two different events have the event key {event.id}; give each its own")
    return Given(tuple(upcast_all(distinct.values())))


@dataclass(frozen=True, slots=True)
class Given:
    """Distinct events, upcast to the newest versions of their types."""

    events: tuple[Event, ...]

    def when_folded_by(self, projection: Projection) -> "Folded":
        """Return the rows that a projection folds in memory, as a rebuild does; tries many orders and batches."""
        rows = _folded(projection, [self.events])
        for batches in _arrangements(self.events, _orders(self.events)):
            _assert_same(projection, batches, _folded(projection, batches), rows)
        return Folded(projection, rows)

    def when_stored_by(self, projection: Projection, engine: Engine) -> "Folded":
        """Return the rows that a projection stores, as a drain does; tries several orders and batches.

        A rebuild must give the same rows. The database must be migrated; the transaction is rolled back.
        """
        rows = _folded(projection, [self.events])
        orders = (self.events, self.events[::-1], _shuffled(self.events, seed=0))
        with engine.connect() as connection, connection.begin() as transaction:
            for batches in _arrangements(self.events, orders):
                _assert_same(projection, batches, _stored(projection, batches, connection), rows)
            transaction.rollback()
        return Folded(projection, rows)


@dataclass(frozen=True, slots=True)
class Folded:
    """The rows of a projection's table, in the order of their keys."""

    projection: Projection
    rows: Rows

    def then(self, *expected: Mapping[str, Any]) -> None:
        """Raise AssertionError unless the rows equal these, in key order; each mapping names the columns to compare."""
        columns = self.projection.table.columns.keys()
        rows = [dict(zip(columns, row, strict=True)) for row in self.rows]
        if len(rows) != len(expected):
            raise AssertionError(f"expected {len(expected)} rows, found {len(rows)}: {rows}")
        for row, expected_row in zip(rows, expected, strict=True):
            if unknown := expected_row.keys() - row.keys():
                raise AssertionError(f"no such column: {', '.join(sorted(unknown))}; the columns are {list(row)}")
            actual = {name: row[name] for name in expected_row}
            if actual != expected_row:
                raise AssertionError(f"expected {dict(expected_row)}, found {actual}")


def _orders(events: tuple[Event, ...]) -> Iterable[Sequence[Event]]:
    if len(events) <= ALL_ORDERS_UP_TO:
        return permutations(events)
    return chain([events, events[::-1]], (_shuffled(events, seed) for seed in range(SHUFFLES)))


def _shuffled(events: Sequence[Event], seed: int) -> Sequence[Event]:
    return random.Random(seed).sample(events, len(events))  # noqa: S311 (not a secret)


def _arrangements(events: Sequence[Event], orders: Iterable[Sequence[Event]]) -> Iterator[Batches]:
    """Yield each order three times: as one batch, as a few batches, and as many."""
    for seed, order in enumerate(orders):
        for batches in sorted({1, min(3, len(events)), min(BATCHES_MAX, len(events))}):
            yield _split(order, batches, seed)


def _split(events: Sequence[Event], batches: int, seed: int) -> Batches:
    inner = range(1, len(events))
    cuts = sorted(random.Random(seed).sample(inner, max(0, batches - 1)))  # noqa: S311
    return [events[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(events)], strict=True)]


def _folded(projection: Projection, batches: Batches) -> Rows:
    model: Model = {}
    for batch in batches:
        projection.fold_into(model, batch)
    return tuple(sorted(chain.from_iterable(model.values())))


def _stored(projection: Projection, batches: Batches, connection: Connection) -> Rows:
    connection.execute(delete(projection.table))
    for batch in batches:
        model = projection.fetch(connection, batch)
        projection.fold_into(model, batch)
        projection.store(connection, model)
    return tuple(sorted(tuple(row) for row in connection.execute(select(projection.table))))


def _assert_same(projection: Projection, batches: Batches, found: Rows, expected: Rows) -> None:
    if found != expected:
        order = [[event.id for event in batch] for batch in batches]
        raise AssertionError(
            f"the rows of projection {projection.name} depend on the order or batches of events: {order} gives {found},"
            f" all at once in the given order gives {expected}"
        )
