"""Refold: folds the event log of one tenant in memory, page by page, while drains continue."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from event_stream.events.event import Event
from event_stream.events.event_types import TYPES
from event_stream.events.upcasting import types_upcast_to
from projections.errors import ProjectionsError
from projections.folding.projection import Model, Projection, upcast_all
from projections.lifecycle import log_history
from projections.lifecycle.log_history import LoggedEvent, LogPosition
from projections.transaction import checkpoint_table

PAGE_EVENTS = 1_000
# A fold loads and dumps each row once, so it gets the events of several pages.
FOLD_EVENTS = 4_000
FOLD_BYTES_MAX = 4_000_000


class LogReplacedError(ProjectionsError):
    """The log has changed since it was folded, because the database lost its last commits. Fold the tenant again."""


@dataclass
class Refold:
    """The read models of one tenant, folded from the log in memory. The memory does not grow with the log.

    It first reads the history of the tenant, up to the last number at the start, then the tail of the partition. After
    a database error, call `step` again. After an error in a fold, `must_restart` is set: create a new Refold.
    """

    projections: Sequence[Projection]
    tenant_id: str
    partition: int
    models: list[Model] = field(init=False)
    must_restart: bool = False
    _skipped_types: frozenset[str] = field(init=False)
    # The last event that was read by number. Reading the tail starts with it, to check that it has not changed.
    _up_to: LogPosition | None = None
    _after_id: str = ""
    _in_history: bool = True
    _unfolded: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.models = [{} for _ in self.projections]
        read_types = types_upcast_to({kind for projection in self.projections for kind in projection.reads})
        self._skipped_types = frozenset(TYPES) - read_types

    def step(self, connection: Connection) -> tuple[int, bool]:
        """Read the next page; return how many of the tenant's events it had, and whether less than a page is left.

        All events are folded before the tail begins, and at the end of each step in it. Raises FoldError,
        UndecodableError, LogReplacedError or a database error.
        """
        up_to = self._up_to = self._up_to or self._log_end(connection)
        return self._step_in_history(connection, up_to) if self._in_history else self._step_in_tail(connection, up_to)

    def _log_end(self, connection: Connection) -> LogPosition:
        """Return the current end of the log; every event numbered up to it can be read."""
        number = checkpoint_table.read(connection, self.partition).applied
        last = log_history.read_tail(connection, self.partition, number, self.tenant_id, self._skipped_types, limit=1)
        return last[0].log_position if last and number else LogPosition()

    def _step_in_history(self, connection: Connection, up_to: LogPosition) -> tuple[int, bool]:
        page = log_history.read_history(
            connection, self.tenant_id, self._after_id, up_to.number, self._skipped_types, PAGE_EVENTS
        )
        self._decode(page)
        if page:
            self._after_id = page[-1].event_id
        self._in_history = len(page) == PAGE_EVENTS
        if not self._in_history or self._is_fold_full():
            self._fold()
        return len(page), False

    def _step_in_tail(self, connection: Connection, up_to: LogPosition) -> tuple[int, bool]:
        page = log_history.read_tail(
            connection, self.partition, up_to.number, self.tenant_id, self._skipped_types, PAGE_EVENTS
        )
        if up_to.number and (not page or page[0].log_position != up_to):
            self.must_restart = True
            raise LogReplacedError(
                f"event {up_to.number} of the log of partition {self.partition} has changed since it was folded;"
                " check whether the database lost its last commits"
            )
        new = [logged for logged in page if logged.number > up_to.number]
        of_tenant = [logged for logged in new if logged.tenant_id == self.tenant_id]
        self._decode(of_tenant)
        if new:
            self._up_to = new[-1].log_position
        self._fold()
        return len(of_tenant), len(page) < PAGE_EVENTS

    def _decode(self, page: Iterable[LoggedEvent]) -> None:
        """Decode a page and add its events; if one event fails, add none."""
        self._unfolded += [event for logged in page if (event := logged.decode()) is not None]

    def _is_fold_full(self) -> bool:
        events = self._unfolded
        return len(events) >= FOLD_EVENTS or sum(len(event.body) for event in events) >= FOLD_BYTES_MAX

    def _fold(self) -> None:
        events = upcast_all(self._unfolded)
        self.must_restart = True
        for projection, model in zip(self.projections, self.models, strict=True):
            projection.fold_into(model, events)
        self._unfolded = []
        self.must_restart = False
