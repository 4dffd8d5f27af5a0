"""What a projection is: a value that says which rows an event touches and how it changes them.

There are two kinds. A `Rollup` folds events into one row a key. A `Feed` keeps the newest entries of a group.
`fold_into` brings a read model in memory from before some events to after them. For live events `fetch` gets the rows
that they touch, and `store` writes what became of them; a rebuild folds all of a tenant's events.
Both are order-free: the rows depend on the set of events alone, so a late event, a replay or a rebuild gives the same
bytes. No clock, no randomness, no I/O and no logging in `key`, `fold` or `entry`: a rebuild calls them for all of
history. A change of meaning raises `version`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from sqlalchemy import Column, Connection, Table

from event_stream.event_types import Data, Event
from event_stream.upcasting import upcast
from projections.database.bulk import find, insert_rows, keep_newest, upsert_rows
from projections.database.columns import Row
from projections.errors import ProjectionsError
from projections.folding.row_checksum import RowChecksum

R = TypeVar("R")

Key: TypeAlias = tuple[str, ...]
Kinds: TypeAlias = frozenset[type[Data]]
"""The kinds of events that a projection reads, each by its newest version; the others are none of its business."""
Model: TypeAlias = dict[Row, list[Row]]
"""A read model in memory: the rows of each key, or of each group."""


class FoldError(ProjectionsError):
    """Our own code, a projection's or an upcaster, failed on an event; the cause is the exception that came out of it.

    The message names the kind of the cause only: its text may hold what the event holds.
    """

    def __init__(self, part: str, event: Event, cause: Exception) -> None:
        self.event = event
        super().__init__(f"{part} failed with {type(cause).__name__}")


def upcast_all(events: Iterable[Event]) -> list[Event]:
    """Return events as folds want them, each in the newest version of its type; raises FoldError."""
    newest = []
    for event in events:
        try:
            newest.append(upcast(event))
        except Exception as error:
            raise FoldError(f"the upcaster of {event.type}", event, error) from error
    return newest


def route_events(projections: Sequence["Projection"], events: Iterable[Event]) -> list[list[Event]]:
    """Return for each projection those of the events that it reads, in their order; in one pass over them."""
    shares: list[list[Event]] = [[] for _ in projections]
    readers: defaultdict[type[Data], list[list[Event]]] = defaultdict(list)
    for projection, share in zip(projections, shares, strict=True):
        for kind in projection.reads:
            readers[kind].append(share)
    for event in events:
        for share in readers[type(event.data)]:
            share.append(event)
    return shares


class Projection(Protocol):
    """What the transaction needs to know of any projection."""

    @property
    def name(self) -> str:
        """Its name, for people and for the registry."""

    @property
    def version(self) -> int:
        """The version of its meaning."""

    @property
    def table(self) -> Table:
        """The read model it fills."""

    @property
    def reads(self) -> Kinds:
        """The kinds of events that change it."""

    def fetch(self, connection: Connection, events: Sequence[Event]) -> Model:
        """Return what the table holds of the read model, as far as `fold_into` needs it; raises FoldError."""

    def fold_into(self, model: Model, events: Sequence[Event]) -> None:
        """Bring a read model in memory from before `events` to after them; raises FoldError, and spoils it then."""

    def store(self, connection: Connection, model: Model) -> None:
        """Bring the table to where the events led that were folded into what `fetch` returned."""


@dataclass(frozen=True, slots=True)
class Rollup(Generic[R]):
    """A projection with one row a key.

    `key` names the row that an event touches, `fold` returns that row after the event; `load` and `dump` turn it from
    and into the table's columns, in their order, the key first, but for the last two: those are the row's sums, which
    no fold sees.
    """

    name: str
    version: int
    table: Table
    reads: Kinds
    key: Callable[[Event], Key]
    new: Callable[[Key], R]
    fold: Callable[[R, Event], R]
    load: Callable[[Row], R]
    dump: Callable[[R], Row]

    def __post_init__(self) -> None:
        if tuple(self.table.columns.keys()[-2:]) != RowChecksum._fields:
            raise TypeError(f"the table of projection {self.name} must end with `*sums.columns()`")

    def fetch(self, connection: Connection, events: Sequence[Event]) -> Model:
        """Return the rows that the events touch, by key."""
        width = len(self.table.primary_key.columns)
        found = find(connection, self.table, list(self.table.columns), sorted(self._by_key(events)))
        return {row[:width]: [row] for row in found}

    def fold_into(self, model: Model, events: Sequence[Event]) -> None:
        """Put in the place of each row that the events touch the one that follows from them."""
        for key, key_events in self._by_key(events).items():
            stored = model.get(key)
            model[key] = [self._after(key, stored[0] if stored else None, key_events)]

    def store(self, connection: Connection, model: Model) -> None:
        """Store each row once."""
        upsert_rows(connection, self.table, chain.from_iterable(model.values()))

    def _by_key(self, events: Sequence[Event]) -> dict[Key, list[Event]]:
        touched: defaultdict[Key, list[Event]] = defaultdict(list)
        for event in events:
            if type(event.data) in self.reads:
                try:
                    touched[self.key(event)].append(event)
                except Exception as error:
                    raise FoldError(f"projection {self.name}", event, error) from error
        return touched

    def _after(self, key: Key, stored: Row | None, events: Sequence[Event]) -> Row:
        """Return a row as it is to be stored after events."""
        event = events[0]
        columns, sums = (None, RowChecksum()) if stored is None else (stored[:-2], RowChecksum(*stored[-2:]))
        try:
            row = self.new(key) if columns is None else self.load(columns)
            for event in events:
                row = self.fold(row, event)
            return (*self.dump(row), *sums.plus(events))
        except Exception as error:
            # The event in hand: the first while loading, the last while dumping.
            raise FoldError(f"projection {self.name}", event, error) from error


@dataclass(frozen=True, slots=True)
class Feed:
    """A projection that keeps the newest `keep` entries of each group.

    `entry` returns an event's row. The table's primary key is the group's columns followed by those of the order.
    """

    name: str
    version: int
    table: Table
    reads: Kinds
    group: tuple[Column[Any], ...]
    order: tuple[Column[Any], ...]
    keep: int
    entry: Callable[[Event], Row]

    def fetch(self, _connection: Connection, _events: Sequence[Event]) -> Model:
        """Return nothing: what is stored already does not change, at most it is too old then."""
        return {}

    def fold_into(self, model: Model, events: Sequence[Event]) -> None:
        """Add the entries of new events, and keep the newest of each touched group."""
        for group, rows in self._by_group(events).items():
            model[group] = self._newest(model.get(group, []) + rows)

    def store(self, connection: Connection, model: Model) -> None:
        """Add the new entries, then remove what is older than the newest `keep` of each touched group."""
        insert_rows(connection, self.table, list(chain.from_iterable(model.values())))
        keep_newest(connection, self.table, self.group, self.order, self.keep, sorted(model))

    def _by_group(self, events: Sequence[Event]) -> Model:
        by_group: defaultdict[Row, list[Row]] = defaultdict(list)
        for event in events:
            if type(event.data) in self.reads:
                row = self._entry(event)
                by_group[row[: len(self.group)]].append(row)
        return by_group

    def _newest(self, rows: list[Row]) -> list[Row]:
        # A row begins with its primary key, whose last columns are the order.
        return rows if len(rows) <= self.keep else sorted(rows)[-self.keep :]

    def _entry(self, event: Event) -> Row:
        try:
            return self.entry(event)
        except Exception as error:
            raise FoldError(f"projection {self.name}", event, error) from error


def project_key(event: Event) -> Key:
    """Return the key of the project that an event is about."""
    assert event.project_id is not None
    return (event.tenant_id, event.project_id)
