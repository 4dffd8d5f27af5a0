"""What a projection is: a value that says which rows an event touches and how it changes them.

There are two kinds. A `Rollup` folds events into one row a key. A `Feed` keeps the newest entries of a group.
Both are order-free: the rows depend on the set of events alone, so a late event, a replay or a rebuild gives the same
bytes. No clock, no randomness, no I/O and no logging in `keys`, `fold` or `entry`: a rebuild calls them for all of
history. A change of meaning raises `version`.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from sqlalchemy import Column, Connection, Table, bindparam, delete, select, tuple_

from event_stream.types import Event
from projections.errors import ProjectionsError
from projections.store import Row, find, insert_rows, upsert_rows

R = TypeVar("R")

Key: TypeAlias = tuple[str, ...]


class FoldError(ProjectionsError):
    """A projection's own code failed on an event; the cause is the exception that came out of it.

    The message names the kind of the cause only: its text may hold what the event holds.
    """

    def __init__(self, projection: str, event: Event, cause: Exception) -> None:
        self.event = event
        super().__init__(f"projection {projection} failed with {type(cause).__name__}")


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

    def project(self, connection: Connection, events: Sequence[Event]) -> None:
        """Bring the read model from before `events` to after them; raises FoldError."""


@dataclass(frozen=True, slots=True)
class Rollup(Generic[R]):
    """A projection with one row a key.

    `keys` names the rows that an event touches, () for none of our business; `fold` returns such a row after the event;
    `load` and `dump` turn it from and into the table's columns, in their order, the key first.
    """

    name: str
    version: int
    table: Table
    keys: Callable[[Event], tuple[Key, ...]]
    new: Callable[[Key], R]
    fold: Callable[[R, Event], R]
    load: Callable[[Row], R]
    dump: Callable[[R], Row]

    def project(self, connection: Connection, events: Sequence[Event]) -> None:
        """Load the touched rows once, fold in memory, store each changed row once."""
        touched = self._by_key(events)
        width = len(self.table.primary_key.columns)
        found = find(connection, self.table, list(self.table.columns), sorted(touched))
        stored = {row[:width]: row for row in found}
        changed = [self._after(key, stored.get(key), key_events) for key, key_events in touched.items()]
        upsert_rows(connection, self.table, [row for row in changed if row is not None])

    def _by_key(self, events: Sequence[Event]) -> dict[Key, list[Event]]:
        touched: defaultdict[Key, list[Event]] = defaultdict(list)
        for event in events:
            try:
                keys = self.keys(event)
            except Exception as error:
                raise FoldError(self.name, event, error) from error
            for key in keys:
                touched[key].append(event)
        return touched

    def _after(self, key: Key, stored: Row | None, events: Sequence[Event]) -> Row | None:
        """Return a row as it is to be stored after events, None if they changed nothing."""
        event = events[0]
        try:
            before = row = self.new(key) if stored is None else self.load(stored)
            for event in events:
                row = self.fold(row, event)
            return None if stored is not None and row == before else self.dump(row)
        except Exception as error:
            # The event in hand: the first while loading, the last while dumping.
            raise FoldError(self.name, event, error) from error


@dataclass(frozen=True, slots=True)
class Feed:
    """A projection that keeps the newest `keep` entries of each group.

    `entry` returns an event's row, or None for none of our business. The table's primary key is the group's columns
    followed by those of the order.
    """

    name: str
    version: int
    table: Table
    group: tuple[Column[Any], ...]
    order: tuple[Column[Any], ...]
    keep: int
    entry: Callable[[Event], Row | None]

    def project(self, connection: Connection, events: Sequence[Event]) -> None:
        """Add the entries of new events, then remove what is older than the newest `keep` of each touched group."""
        rows = [row for event in events if (row := self._entry(event)) is not None]
        if not rows:
            return
        insert_rows(connection, self.table, rows)
        width = len(self.group)
        groups = sorted({row[:width] for row in rows})
        names = [f"group_{column.name}" for column in self.group]
        connection.execute(self._prune_statement(), [dict(zip(names, group, strict=True)) for group in groups])

    def _entry(self, event: Event) -> Row | None:
        try:
            return self.entry(event)
        except Exception as error:
            raise FoldError(self.name, event, error) from error

    def _prune_statement(self) -> Any:
        of_group = [column == bindparam(f"group_{column.name}") for column in self.group]
        oldest_kept = (
            select(*self.order)
            .where(*of_group)
            .order_by(*(column.desc() for column in self.order))
            .offset(self.keep - 1)
            .limit(1)
        )
        return delete(self.table).where(*of_group, tuple_(*self.order) < oldest_kept.scalar_subquery())
