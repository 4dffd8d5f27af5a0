"""The one transaction: log, read models, dead letters and checkpoint move together or not at all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from event_stream.entries import Position, StreamSlice
from event_stream.envelope import Reason, equal_json
from event_stream.event_types import Event, Identity
from projections.database.bulk import FEW_ROWS
from projections.database.idle_lock_holders import end_idle_lock_holders
from projections.database.pipeline import pipelined
from projections.folding.projection import Projection, upcast_all
from projections.transaction import checkpoint, dead_letters, event_log, projection_version
from projections.transaction.checkpoint import Checkpoint
from projections.transaction.dead_letters import DeadLetter
from projections.transaction.event_log import Classified


@dataclass(frozen=True, slots=True)
class Batch:
    """A run of entries that were read and judged, ready to be applied.

    `expected` is the checkpoint that the database must still hold; `start` is where the run begins: the same, or a new
    epoch of it. `homes` are the other partitions that the letters' events belong to.
    """

    expected: Checkpoint
    start: Checkpoint
    reading: StreamSlice
    events: list[Event]
    letters: list[DeadLetter]
    owner_partitions: frozenset[int] = frozenset()

    @property
    def positions(self) -> list[Position]:
        """Where the entries lie that brought the events, one by one; asked for where something is wrong with one."""
        others = {letter.position for letter in self.letters}
        return [position for entry in self.reading.entries if (position := entry.position) not in others]


def apply(engine: Engine, projections: Sequence[Projection], batch: Batch) -> Checkpoint:
    """Apply a batch and return the checkpoint after it.

    Raises StaleClaimError if another drain was faster, OutdatedReleaseError, FoldError, or the database's own errors;
    nothing has changed then. If the process dies, or the outcome of the commit is unknown, the checkpoint tells:
    reading from it again repeats the batch or continues after it, and either way each event counts once.
    """
    try:
        with _transaction(engine, few=len(batch.reading.entries) <= FEW_ROWS) as connection:
            return _apply(connection, projections, batch)
    except DBAPIError as error:
        end_idle_lock_holders(engine, error)
        raise


@contextmanager
def _transaction(engine: Engine, *, few: bool) -> Iterator[Connection]:
    """Begin a transaction, that of few entries with all its statements together: they are soon done, and waited for."""
    with engine.connect() as connection, pipelined(connection) if few else nullcontext(), connection.begin():
        yield connection


def _apply(connection: Connection, projections: Sequence[Projection], batch: Batch) -> Checkpoint:
    partition = batch.expected.partition
    identities = [event.identity for event in batch.events]
    questions = (
        event_log.bodies_query(connection, identities),
        projection_version.versions_query(connection, sorted({event.tenant_id for event in batch.events})),
        dead_letters.ANY_OPEN,
    )
    # An event that went astray may just now be applied at home: only one of us may look for the other's doings.
    bodies, lines, letter = checkpoint.claim(connection, batch.expected, batch.owner_partitions, questions)
    accepted = event_log.classify(batch.events, identities, bodies)
    shares = projection_version.route_by_version(connection, projections, upcast_all(accepted.new), lines)
    models = [projection.fetch(connection, events) for projection, events in shares]
    # The database is as busy with the log as we are with the folds: so both at the same time.
    with event_log.append_while(connection, partition, accepted.new, last_number=batch.start.applied):
        for (projection, events), model in zip(shares, models, strict=True):
            projection.fold_into(model, events)
    for (projection, _), model in zip(shares, models, strict=True):
        projection.store(connection, model)
    letters = batch.letters + _conflicts(batch, accepted)
    dead_letters.park(connection, letters)
    if letter or letters:
        dead_letters.close_applied(connection, _applied(connection, accepted, batch.letters))
    after = _after(batch, applied=len(accepted.new), duplicates=len(accepted.duplicates), dead_lettered=len(letters))
    checkpoint.advance(connection, after)
    return after


def _applied(connection: Connection, accepted: Classified, letters: Sequence[DeadLetter]) -> dict[Identity, bytes]:
    """Return the bodies in the log that letters may hold: those of this batch, and those that its letters hold."""
    named = [(letter.identity, letter.body) for letter in letters if letter.identity is not None]
    known = event_log.find_bodies(connection, [identity for identity, _ in named])
    # Not all that they name: of one identity there may be any number of other letters.
    held = {identity for identity, body in named if identity in known and equal_json(body, known[identity])}
    return {event.identity: event.body for event in accepted.new + accepted.duplicates} | {
        identity: known[identity] for identity in held
    }


def _after(batch: Batch, applied: int, duplicates: int, dead_lettered: int) -> Checkpoint:
    at, reading = batch.start, batch.reading
    entries = reading.entries
    passes_seen = reading.reaches_end or entries[-1].position >= at.seen.position
    if passes_seen:
        at = at.passing_seen(entries)
    if passes_seen or at.has_seen(reading.other):
        at = at.seeing(reading.end)
    if entries:
        at = at.moved_to(entries[-1], applied, duplicates, dead_lettered)
    return at.settled(reading.end) if reading.reaches_end else at


def _conflicts(batch: Batch, accepted: Classified) -> list[DeadLetter]:
    if not accepted.conflicts:
        return []
    positions = batch.positions
    return [_conflict(batch.expected.partition, positions[at], batch.events[at]) for at in accepted.conflicts]


def _conflict(partition: int, position: Position, event: Event) -> DeadLetter:
    detail = f"id: {event.id} of tenant {event.tenant_id} was accepted before with other content; use a new id"
    return DeadLetter(partition, position, event.body, Reason.ID_CONFLICT, detail)
