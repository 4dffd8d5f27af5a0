"""`Projection`: which events a read model reads, which rows they touch, and how they change them.

There are two kinds: a `Rollup` folds events into one row per key; a `Feed` keeps the newest entries of each group.
For live events, `fetch` loads the rows that they touch, `fold_into` applies the events in memory, and `store` writes
the rows. A rebuild starts from an empty model and folds all events of a tenant.

Rows depend on the set of events only, not on their order (docs/decisions/0004-folds-do-not-depend-on-order.md). The
functions of a projection use no clock, randomness, I/O or logging. When their results change, increase `version`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

from sqlalchemy import Connection, Table

from event_stream.events.event import Event
from event_stream.events.event_types import Data
from event_stream.events.upcasting import upcast
from projections.database.columns import Row
from projections.errors import ProjectionsError

Key: TypeAlias = tuple[str, ...]
DataClasses: TypeAlias = frozenset[type[Data]]
"""The data classes, each the newest version of its event type, of the events that a projection reads."""
Model: TypeAlias = dict[Row, list[Row]]
"""A read model in memory: the rows of each key or group."""


class FoldError(ProjectionsError):
    """A projection or an upcaster failed on an event; `__cause__` is its exception.

    The message names only the exception's type, because its text may hold event data.
    """

    def __init__(self, part: str, event: Event, cause: Exception) -> None:
        self.event = event
        super().__init__(f"{part} failed with {type(cause).__name__}")


class Projection(Protocol):
    """The methods that `Rollup` and `Feed` share."""

    @property
    def name(self) -> str:
        """Its name in the registry, in messages and in metrics."""

    @property
    def version(self) -> int:
        """The version of its meaning."""

    @property
    def table(self) -> Table:
        """The table of its read model."""

    @property
    def reads(self) -> DataClasses:
        """The data classes of the events that it reads."""

    def fetch(self, connection: Connection, events: Sequence[Event]) -> Model:
        """Return the part of the read model that `fold_into` needs for these events; raises FoldError."""

    def fold_into(self, model: Model, events: Sequence[Event]) -> None:
        """Apply events to a read model in memory. If it raises FoldError, discard the model."""

    def store(self, connection: Connection, model: Model) -> None:
        """Write a model that came from `fetch` and went through `fold_into`."""


def upcast_all(events: Iterable[Event]) -> list[Event]:
    """Return the events in the newest versions of their types; raises FoldError."""
    newest = []
    for event in events:
        try:
            newest.append(upcast(event))
        except Exception as error:
            raise FoldError(f"the upcaster of {event.type}", event, error) from error
    return newest


def route_events(projections: Sequence[Projection], events: Iterable[Event]) -> list[list[Event]]:
    """Return for each projection the events that it reads, in their order."""
    routed: list[list[Event]] = [[] for _ in projections]
    readers: defaultdict[type[Data], list[list[Event]]] = defaultdict(list)
    for projection, its_events in zip(projections, routed, strict=True):
        for data_class in projection.reads:
            readers[data_class].append(its_events)
    for event in events:
        for its_events in readers[type(event.data)]:
            its_events.append(event)
    return routed


def project_key(event: Event) -> Key:
    """Return the key of the project that an event is about."""
    assert event.project_id is not None
    return (event.tenant_id, event.project_id)
