"""Rebuild: a tenant's read models folded from the event log, and put in the place of the stored rows at once.

Nearly all of the log is folded while drains go on. Only the replacement claims the partition, as a drain does: it folds
what came meanwhile, compares, and writes the rows that differ. So a reader sees the rows from before or from after.
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from sqlalchemy import Connection, Engine, Table
from sqlalchemy.exc import DBAPIError

from event_stream.event_types import TYPES, Event
from event_stream.upcasting import types_of
from projections.database.bulk import delete_rows, insert_rows, upsert_rows
from projections.database.columns import Row
from projections.database.engines import disable_scans
from projections.database.idle_lock_holders import end_idle_lock_holders
from projections.database.paging import ROWS_AT_ONCE, rows_of
from projections.errors import ProjectionsError
from projections.folding.projection import Model, Projection, upcast_all
from projections.lifecycle import pending_rebuilds
from projections.transaction import checkpoint, event_log, projection_version
from projections.transaction.event_log import LoggedEvent, LogPosition

EVENTS_AT_ONCE = 1_000
# A row is loaded and dumped once for all events that are folded together, so folds get several pages at a time.
FOLDED_AT_ONCE = 4_000
FOLDED_BYTES_MAX = 4_000_000


class LogReplacedError(ProjectionsError):
    """The log is not the one that was folded: the database has lost its last commits. It is to be folded anew."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How a projection's rows of a tenant differ from its log, by the primary keys' order.

    `missing` are the rows that should be there, `extra` those that should not, `changed` pairs of a stored row and the
    one that should stand there.
    """

    projection: Projection
    missing: list[Row]
    extra: list[Row]
    changed: list[tuple[Row, Row]]

    @property
    def table(self) -> Table:
        """The read model that differs."""
        return self.projection.table

    def __len__(self) -> int:
        return len(self.missing) + len(self.extra) + len(self.changed)


@dataclass(frozen=True, slots=True)
class ReplaceResult:
    """What became of a tenant: how its read models differed, and for how long its partition was claimed.

    `due` are the names of those that were to be rebuilt anyway, being of another version or behind.
    """

    differences: list[Difference]
    held_s: float
    due: frozenset[str] = frozenset()


@dataclass
class Refold:
    """The read models of one tenant in memory, folded from the log page by page: as large as those, never as the log.

    It begins with the tenant's own events, up to the last number of the moment, and goes on with the partition's tail.
    After an error of the database's it goes on where it was. After one in the middle of a fold it is
    `spoilt`: begin anew.
    """

    projections: Sequence[Projection]
    tenant_id: str
    partition: int
    models: list[Model] = field(init=False)
    spoilt: bool = False
    _unread: frozenset[str] = field(init=False)
    # The last event that is folded: the tail begins at it, so that it is seen to be the very one.
    _until: LogPosition | None = None
    _after_id: str = ""
    _in_history: bool = True
    _unfolded: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.models = [{} for _ in self.projections]
        read = types_of({kind for projection in self.projections for kind in projection.reads})
        self._unread = frozenset(TYPES) - read

    def step(self, connection: Connection) -> tuple[int, bool]:
        """Read the next page; returns how many of the tenant's events it held, and whether less than a page is left.

        What was read is folded before the tail begins, and at each step in it. Raises FoldError, UndecodableError,
        LogReplacedError, or the database's errors.
        """
        until = self._until = self._until or self._end(connection)
        if not self._in_history:
            return self._step_in_tail(connection, until)
        page = event_log.read_history(
            connection, self.tenant_id, self._after_id, until.number, self._unread, EVENTS_AT_ONCE
        )
        self._decode(page)
        if page:
            self._after_id = page[-1].event_id
        self._in_history = len(page) == EVENTS_AT_ONCE
        if not self._in_history or self._is_enough():
            self._fold()
        return len(page), False

    def _end(self, connection: Connection) -> LogPosition:
        """Return where the log ends now: all that is numbered up to there can be read."""
        number = checkpoint.read(connection, self.partition).applied
        last = event_log.read_tail(connection, self.partition, number, self.tenant_id, self._unread, limit=1)
        return last[0].place if last and number else LogPosition()

    def _step_in_tail(self, connection: Connection, until: LogPosition) -> tuple[int, bool]:
        page = event_log.read_tail(
            connection, self.partition, until.number, self.tenant_id, self._unread, EVENTS_AT_ONCE
        )
        if until.number and (not page or page[0].place != until):
            self.spoilt = True
            raise LogReplacedError(
                f"event {until.number} of partition {self.partition}'s log is another one than before;"
                " has the database lost its last commits?"
            )
        new = [logged for logged in page if logged.number > until.number]
        mine = [logged for logged in new if logged.tenant_id == self.tenant_id]
        self._decode(mine)
        if new:
            self._until = new[-1].place
        self._fold()
        return len(mine), len(page) < EVENTS_AT_ONCE

    def _decode(self, page: Iterable[LoggedEvent]) -> None:
        """Decode all that was read, or nothing of it."""
        self._unfolded += [event for logged in page if (event := logged.decoded()) is not None]

    def _is_enough(self) -> bool:
        """Return whether what is decoded is worth a fold, or too large to wait for more."""
        events = self._unfolded
        return len(events) >= FOLDED_AT_ONCE or sum(len(event.body) for event in events) >= FOLDED_BYTES_MAX

    def _fold(self) -> None:
        events = upcast_all(self._unfolded)
        self.spoilt = True
        for projection, model in zip(self.projections, self.models, strict=True):
            projection.fold_into(model, events)
        self._unfolded = []
        self.spoilt = False


def replace(engine: Engine, refolding: Refold) -> ReplaceResult:
    """Put what is folded in the place of what is stored, in one transaction; what was due is settled in it.

    The rows are of this release's version then. Those that are equal are not written. Raises OutdatedReleaseError, or
    as `Refolding.step` does; nothing has changed then. If the process dies,
    or the outcome of the commit is unknown, what is due tells; doing it again is harmless.
    """
    with _claimed(engine, refolding) as connection:
        claimed_s = time.monotonic()
        differences = _differences(connection, refolding)
        for difference in differences:
            _mend(connection, difference)
        projection_version.mark_current(connection, refolding.tenant_id, refolding.projections)
        pending_rebuilds.complete(
            connection, refolding.tenant_id, [projection.name for projection in refolding.projections]
        )
    return ReplaceResult(differences, time.monotonic() - claimed_s)


def compare(engine: Engine, refolding: Refold) -> ReplaceResult:
    """Return what `replace` would change, and change nothing; the claim is held for as long as it takes to tell."""
    with _claimed(engine, refolding) as connection:
        claimed_s = time.monotonic()
        differences = _differences(connection, refolding)
        due_anyway = projection_version.due_of(connection, refolding.tenant_id, refolding.projections)
    return ReplaceResult(differences, time.monotonic() - claimed_s, due_anyway)


def verify(engine: Engine, refolding: Refold) -> ReplaceResult:
    """Return how the rows differ that are not due to be rebuilt, and change nothing; as `compare` otherwise."""
    found = compare(engine, refolding)
    wrong = [each for each in found.differences if each.projection.name not in found.due]
    return dataclasses.replace(found, differences=wrong)


@contextmanager
def _claimed(engine: Engine, refolding: Refold) -> Iterator[Connection]:
    """Begin a transaction that holds the claim of the tenant's partition."""
    try:
        with engine.begin() as connection:
            disable_scans(connection)
            checkpoint.claim_as_it_is(connection, refolding.partition)
            yield connection
    except DBAPIError as error:
        end_idle_lock_holders(engine, error)
        raise


def _differences(connection: Connection, refolding: Refold) -> list[Difference]:
    is_whole = False
    while not is_whole:
        _, is_whole = refolding.step(connection)
    both = zip(refolding.projections, refolding.models, strict=True)
    return [_difference(connection, projection, refolding.tenant_id, model) for projection, model in both]


def _difference(connection: Connection, projection: Projection, tenant_id: str, model: Model) -> Difference:
    table = projection.table
    width = len(table.primary_key.columns)
    missing = {row[:width]: row for rows in model.values() for row in rows}
    found = Difference(projection, [], [], [])
    for stored in rows_of(connection, table, tenant_id):
        rebuilt = missing.pop(stored[:width], None)
        if rebuilt is None:
            found.extra.append(stored)
        elif rebuilt != stored:
            found.changed.append((stored, rebuilt))
    found.missing.extend(sorted(missing.values()))  # a row begins with its primary key
    return found


def _mend(connection: Connection, difference: Difference) -> None:
    """Write the rows that differ, in steps, none of which takes long."""
    table = difference.table
    width = len(table.primary_key.columns)
    missing, changed = iter(difference.missing), iter(rebuilt for _, rebuilt in difference.changed)
    while rows := list(islice(missing, ROWS_AT_ONCE)):
        insert_rows(connection, table, rows)
    while rows := list(islice(changed, ROWS_AT_ONCE)):
        upsert_rows(connection, table, rows)
    delete_rows(connection, table, [row[:width] for row in difference.extra])
