"""`Rollup`: a projection that folds events into one row per key."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

from sqlalchemy import Connection, Table

from event_stream.events.event import Event
from projections.database.bulk import upsert_rows
from projections.database.columns import Row
from projections.database.key_queries import find_rows
from projections.folding.projection import DataClasses, FoldError, Key, Model
from projections.folding.row_checksum import RowChecksum

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Rollup(Generic[R]):
    """A projection with one row per key.

    `key` returns the key of the row that an event touches. `fold` returns that row after the event. `load` and `dump`
    convert a row from and to the table's columns, the key first. The last two columns are the row's checksum. This
    class updates it; the fold does not see it.
    """

    name: str
    version: int
    table: Table
    reads: DataClasses
    key: Callable[[Event], Key]
    new: Callable[[Key], R]
    fold: Callable[[R, Event], R]
    load: Callable[[Row], R]
    dump: Callable[[R], Row]

    def __post_init__(self) -> None:
        if tuple(self.table.columns.keys()[-2:]) != RowChecksum._fields:
            raise TypeError(f"the table of projection {self.name} must end with `*row_checksum.columns()`")

    def fetch(self, connection: Connection, events: Sequence[Event]) -> Model:
        """Return the stored rows that the events touch, by key."""
        width = len(self.table.primary_key.columns)
        found = find_rows(connection, self.table, list(self.table.columns), sorted(self._group_by_key(events)))
        return {row[:width]: [row] for row in found}

    def fold_into(self, model: Model, events: Sequence[Event]) -> None:
        """Replace each row that the events touch by the row after them."""
        for key, key_events in self._group_by_key(events).items():
            stored = model.get(key)
            model[key] = [self._fold_row(key, stored[0] if stored else None, key_events)]

    def store(self, connection: Connection, model: Model) -> None:
        """Write each row once."""
        upsert_rows(connection, self.table, chain.from_iterable(model.values()))

    def _group_by_key(self, events: Sequence[Event]) -> dict[Key, list[Event]]:
        events_by_key: defaultdict[Key, list[Event]] = defaultdict(list)
        for event in events:
            if type(event.data) in self.reads:
                try:
                    events_by_key[self.key(event)].append(event)
                except Exception as error:
                    raise FoldError(f"projection {self.name}", event, error) from error
        return events_by_key

    def _fold_row(self, key: Key, stored: Row | None, events: Sequence[Event]) -> Row:
        """Return the row to store after the events."""
        event = events[0]
        columns, checksum = (None, RowChecksum()) if stored is None else (stored[:-2], RowChecksum(*stored[-2:]))
        try:
            row = self.new(key) if columns is None else self.load(columns)
            for event in events:
                row = self.fold(row, event)
            return (*self.dump(row), *checksum.plus(events))
        except Exception as error:
            # `event` is the first one if `load` failed, and the last one if `dump` failed.
            raise FoldError(f"projection {self.name}", event, error) from error
