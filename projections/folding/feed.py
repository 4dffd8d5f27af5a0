"""`Feed`: a projection that keeps the newest entries of each group."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sqlalchemy import Column, Connection, Table

from event_stream.events.event import Event
from projections.database.bulk import insert_rows
from projections.database.columns import Row
from projections.database.retention import keep_newest
from projections.folding.projection import DataClasses, FoldError, Model


@dataclass(frozen=True, slots=True)
class Feed:
    """A projection that keeps the newest `keep` entries of each group.

    `entry` returns the row of an event. The table's primary key is the columns of `group`, then those of `order`.
    """

    name: str
    version: int
    table: Table
    reads: DataClasses
    group: tuple[Column[Any], ...]
    order: tuple[Column[Any], ...]
    keep: int
    entry: Callable[[Event], Row]

    def fetch(self, _connection: Connection, _events: Sequence[Event]) -> Model:
        """Return an empty model, because stored entries never change. `store` removes those that are too old."""
        return {}

    def fold_into(self, model: Model, events: Sequence[Event]) -> None:
        """Add the entries of the events, and keep the newest of each group that they touch."""
        for group, rows in self._group_entries(events).items():
            model[group] = self._newest(model.get(group, []) + rows)

    def store(self, connection: Connection, model: Model) -> None:
        """Insert the new entries, and delete those of the same groups that are older than the newest `keep`."""
        insert_rows(connection, self.table, list(chain.from_iterable(model.values())))
        keep_newest(connection, self.table, self.group, self.order, self.keep, sorted(model))

    def _group_entries(self, events: Sequence[Event]) -> Model:
        by_group: defaultdict[Row, list[Row]] = defaultdict(list)
        for event in events:
            if type(event.data) in self.reads:
                row = self._entry(event)
                by_group[row[: len(self.group)]].append(row)
        return by_group

    def _newest(self, rows: list[Row]) -> list[Row]:
        # A row begins with its primary key, so rows of one group sort in their order.
        return rows if len(rows) <= self.keep else sorted(rows)[-self.keep :]

    def _entry(self, event: Event) -> Row:
        try:
            return self.entry(event)
        except Exception as error:
            raise FoldError(f"projection {self.name}", event, error) from error
