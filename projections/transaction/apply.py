"""Applies a batch: one transaction changes event log, read models, dead letters and checkpoint, or nothing.

The steps are claim, accept, fold, park and advance: docs/explanation/architecture.md#the-transaction
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from event_stream.errors import Reason
from event_stream.events.event import Event, Identity
from event_stream.events.json_equality import equal_json
from event_stream.streams.entries import Position, StreamSlice
from projections.database.bulk import COPY_ABOVE_ROWS
from projections.database.columns import Row
from projections.database.idle_lock_holders import end_idle_lock_holders
from projections.database.pipeline import pipelined
from projections.folding.projection import Projection, upcast_all
from projections.transaction import checkpoint_table, dead_letter_counts, dead_letters, event_log, projection_version
from projections.transaction.checkpoint import Checkpoint
from projections.transaction.dead_letter_limits import KEPT_MAX, count_and_limit
from projections.transaction.dead_letters import DeadLetter
from projections.transaction.event_log import Classified


@dataclass(frozen=True, slots=True)
class Batch:
    """A run of entries, decoded and ready to be applied.

    `expected` is the checkpoint that the database must still hold. `start` is where the batch begins: at `expected`, or
    at a new epoch. `owner_partitions` are the partitions that own the events in `dead_letters`, where they differ
    from the partition of the batch.
    """

    expected: Checkpoint
    start: Checkpoint
    stream_slice: StreamSlice
    events: list[Event]
    dead_letters: list[DeadLetter]
    owner_partitions: frozenset[int] = frozenset()

    @property
    def event_positions(self) -> list[Position]:
        """The position of each event, in order. Computed on access, because only an error needs it."""
        parked = {each.position for each in self.dead_letters}
        return [position for entry in self.stream_slice.entries if (position := entry.position) not in parked]


def apply(
    engine: Engine, projections: Sequence[Projection], batch: Batch, dead_letters_max: int = KEPT_MAX
) -> Checkpoint:
    """Apply a batch in one transaction, and return the checkpoint after it.

    Raises StaleClaimError if another drain was faster, OutdatedReleaseError, FoldError, DeadLettersFullError or a
    database error; then nothing has changed. A crash is harmless wherever it happens:

    * before the commit, the database rolls back, and the next drain reads the same entries again;
    * during the commit, everything or nothing is stored, and the checkpoint shows the next drain which of the two;
    * after the commit, the next drain continues after the batch.
    """
    try:
        with _transaction(engine, batch) as connection:
            return _apply(connection, projections, batch, dead_letters_max)
    except DBAPIError as error:
        end_idle_lock_holders(engine, checkpoint_table.table, error)
        raise


def _apply(
    connection: Connection, projections: Sequence[Projection], batch: Batch, dead_letters_max: int
) -> Checkpoint:
    """Claim the checkpoint, accept new events, fold them, park dead letters, and advance the checkpoint."""
    identities = [event.identity for event in batch.events]
    bodies, versions, open_buckets = _claim(connection, batch, identities)
    classified = event_log.classify(batch.events, identities, bodies)
    _append_and_fold(connection, projections, batch, classified.new, versions)
    tenants_with_open = dead_letter_counts.buckets_in(open_buckets)
    parked = _park(connection, batch, classified, tenants_with_open, dead_letters_max)
    after = batch.start.after_batch(
        batch.stream_slice,
        applied=len(classified.new),
        duplicates=len(classified.duplicates),
        dead_lettered=len(parked),
    )
    checkpoint_table.advance(connection, after)
    return after


@contextmanager
def _transaction(engine: Engine, batch: Batch) -> Iterator[Connection]:
    """Begin a transaction; in a pipeline if the batch is small: docs/decisions/0020-pipeline-small-batches.md."""
    is_small = len(batch.stream_slice.entries) <= COPY_ABOVE_ROWS
    with engine.connect() as connection, pipelined(connection) if is_small else nullcontext(), connection.begin():
        yield connection


def _claim(connection: Connection, batch: Batch, identities: Sequence[Identity]) -> list[Sequence[Row]]:
    """Claim the checkpoint.

    Returns the events that the log has already, the projection versions of the tenants, and the tenants of these that
    have open dead letters.
    """
    tenants = sorted({event.tenant_id for event in batch.events})
    queries = (
        event_log.bodies_query(connection, identities),
        projection_version.versions_query(connection, tenants),
        dead_letter_counts.buckets_with_open_query(connection, tenants),
    )
    # Claim the owner partitions too, because a drain there may be applying an event that this one parks. The later of
    # the two transactions then sees the result of the earlier one, and closes the dead letter.
    return checkpoint_table.claim(connection, batch.expected, batch.owner_partitions, queries)


def _append_and_fold(
    connection: Connection,
    projections: Sequence[Projection],
    batch: Batch,
    new: Sequence[Event],
    versions: Sequence[Row],
) -> None:
    """Append new events to the log, fold them into the rows that they touch, and store these rows."""
    routed = projection_version.route_by_version(connection, projections, upcast_all(new), versions)
    models = [projection.fetch(connection, events) for projection, events in routed]
    # PostgreSQL writes the log during the folds: docs/decisions/0019-fold-while-the-log-is-written.md
    with event_log.appending(connection, batch.expected.partition, new, last_number=batch.start.applied):
        for (projection, events), model in zip(routed, models, strict=True):
            projection.fold_into(model, events)
    for (projection, _), model in zip(routed, models, strict=True):
        projection.store(connection, model)


def _park(
    connection: Connection,
    batch: Batch,
    classified: Classified,
    tenants_with_open: frozenset[str],
    dead_letters_max: int,
) -> list[DeadLetter]:
    """Store and return the dead letters of a batch; close open dead letters whose event is in the log now."""
    parked = batch.dead_letters + _conflicts(batch, classified)
    tenants = tenants_with_open.union(each.identity[0] for each in parked if each.identity)
    changed = dead_letters.park(connection, parked)
    changed.subtract(dead_letters.close_replaced(connection, parked))
    if tenants:
        logged = _logged_bodies(connection, classified, batch.dead_letters)
        of_tenants = {identity: body for identity, body in logged.items() if identity[0] in tenants}
        changed.subtract(dead_letters.close_applied(connection, of_tenants))
    count_and_limit(connection, changed, dead_letters_max)
    return parked


def _conflicts(batch: Batch, classified: Classified) -> list[DeadLetter]:
    if not classified.conflicts:
        return []
    positions = batch.event_positions
    return [
        _conflict(batch.expected.partition, positions[index], batch.events[index]) for index in classified.conflicts
    ]


def _conflict(partition: int, position: Position, event: Event) -> DeadLetter:
    detail = (
        f"id: event key {event.id} of tenant {event.tenant_id} was accepted before with other content; use a new id"
    )
    return DeadLetter(partition, position, event.body, Reason.ID_CONFLICT, detail)


def _logged_bodies(
    connection: Connection, classified: Classified, parked: Sequence[DeadLetter]
) -> dict[Identity, bytes]:
    """Return the bodies of the batch's events in the log, and of the logged events that a parked entry repeats."""
    identified = [(each.identity, each.body) for each in parked if each.identity is not None]
    logged = event_log.find_bodies(connection, [identity for identity, _ in identified])
    # Leave out entries whose content differs from the log: one identity may have any number of such dead letters.
    repeated = {identity for identity, body in identified if identity in logged and equal_json(body, logged[identity])}
    return {event.identity: event.body for event in classified.new + classified.duplicates} | {
        identity: logged[identity] for identity in repeated
    }
