"""Checkpoints: per partition the last position applied, and what became of everything read up to it."""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from operator import attrgetter
from typing import Any, Self

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    Select,
    Table,
    any_,
    bindparam,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from event_stream.entries import START, Entry, Position, StreamEnd
from event_stream.stream import PartitionsMismatchError
from projections.database.columns import Row, UnsignedBigInteger, metadata
from projections.database.pipeline import Query, execute, fetch, iter_fetch
from projections.errors import ProjectionsError

table = Table(
    "checkpoint",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("position_ms", UnsignedBigInteger, nullable=False),
    Column("position_seq", UnsignedBigInteger, nullable=False),
    Column("position_digest", LargeBinary, nullable=False),
    Column("added_offset", BigInteger, nullable=False),
    Column("read", BigInteger, nullable=False),
    Column("applied", BigInteger, nullable=False),
    Column("duplicates", BigInteger, nullable=False),
    Column("dead_lettered", BigInteger, nullable=False),
    Column("lost", BigInteger, nullable=False),
    Column("stream_end_ms", UnsignedBigInteger, nullable=False),
    Column("stream_end_seq", UnsignedBigInteger, nullable=False),
    Column("stream_end_digest", LargeBinary, nullable=False),
    Column("stream_end_added", BigInteger, nullable=False),
    postgresql_with={"fillfactor": 70},
)
_MINE = table.c.partition == bindparam("of", type_=Integer)
_READ = select(table).where(_MINE)
_ADVANCE = (
    update(table)
    .where(_MINE)
    .values({each.name: bindparam(each.name) for each in table.columns if not each.primary_key})
)


class StaleClaimError(ProjectionsError):
    """Another drain moved the checkpoint meanwhile; nothing was changed, read again from where it is now."""


@dataclass(frozen=True, slots=True)
class LastSeen:
    """The last entry that a stream was seen to hold, and how many had been added by then, over all its lives."""

    position: Position = START
    digest: bytes = b""
    added: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The last entry applied, and counters since the deployment began: read = applied + duplicates + dead_lettered.

    An epoch is one life of the stream as we know it. `added_offset` plus the stream's `entries-added` is the number of
    entries ever added, so that added = read + in flight + lost across its lives (docs/reference/events.md#guarantees).
    `position_digest` tells the entry at `position` from another one that got the same id; it is empty at the start.

    Lost is what was added and is gone unread. Redis tells it by `entries-added` where the stream itself lives on; what
    went together with that counter is told by what was `seen` before.
    """

    partition: int
    epoch: int = 0
    position: Position = START
    position_digest: bytes = b""
    added_offset: int = 0
    read: int = 0
    applied: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    lost: int = 0
    seen: LastSeen = LastSeen()

    def is_at(self, entries: list[Entry]) -> bool:
        """Whether entries read from the checkpoint on, inclusive, continue the stream that it knows."""
        if self.position == START:
            return True
        return bool(entries) and entries[0].position == self.position and entries[0].digest() == self.position_digest

    def has_seen(self, entry: Entry | None) -> bool:
        """Whether an entry is the last one seen, and unread: what lies before it is the stream that it knows."""
        if entry is None or self.seen.position <= self.position:
            return False
        return (entry.position, entry.digest()) == (self.seen.position, self.seen.digest)

    def entries_added(self) -> int:
        """Return the stream's own count of entries up to the checkpoint."""
        return self.read + self.lost - self.added_offset

    def new_epoch(self, end: StreamEnd) -> Self:
        """Return the checkpoint at the start of a stream that is not the one it knew.

        Lost is what was seen unread, or what was removed from the stream's front beyond what was read, if that is more.
        What remains is read again, which is harmless, since the log knows its identities.
        """
        front = end.added - end.length - self.entries_added()
        lost = self.lost + max(0, front, self._seen_unread())
        return replace(
            self,
            epoch=self.epoch + 1,
            position=START,
            position_digest=b"",
            added_offset=self.read + lost + end.length - end.added,
            lost=lost,
            seen=LastSeen(),
        )

    def moved_to(self, last: Entry, applied: int, duplicates: int, dead_lettered: int) -> Self:
        """Return the checkpoint at `last`, after so many entries more."""
        return replace(
            self,
            position=last.position,
            position_digest=last.digest(),
            read=self.read + applied + duplicates + dead_lettered,
            applied=self.applied + applied,
            duplicates=self.duplicates + duplicates,
            dead_lettered=self.dead_lettered + dead_lettered,
        )

    def passing_seen(self, entries: list[Entry]) -> Self:
        """Return the checkpoint before `entries`, which go past the last one seen: all up to there is read or lost."""
        read = self.read + bisect_right(entries, self.seen.position, key=attrgetter("position"))
        return replace(self, lost=self.lost + max(0, self.seen.added - read - self.lost))

    def seeing(self, end: StreamEnd) -> Self:
        """Return the checkpoint that remembers the stream's end."""
        if end.last is None:
            return self
        return replace(self, seen=LastSeen(end.last.position, end.last.digest(), self.added_offset + end.added))

    def settled(self, end: StreamEnd) -> Self:
        """Return the checkpoint after the last entry of a stream: what was added beyond what was read is lost.

        Where entries wait, or something else is in the stream's place, nothing is settled yet. A stream that does not
        exist has no counter to go by: it may have been moved away.
        """
        if end.position not in (None, self.position) or end.wrong_type:
            return self
        added = self.added_offset + end.added if end.added else 0
        lost = self.lost + max(0, added - self.read - self.lost, self._seen_unread())
        # Its counter may have been set back: it is another stream, or an older state of this one.
        added_offset = self.read + lost - end.added if end.added else self.added_offset
        return replace(self, lost=lost, added_offset=added_offset)

    def _seen_unread(self) -> int:
        return self.seen.added - self.read - self.lost


def create_all(connection: Connection, partitions: int) -> None:
    """Create the checkpoints of a new deployment; raises PartitionsMismatchError if there are others."""
    if connection.dialect.name == "postgresql":
        # Of two that migrate at once the second counts what the first created; SQLite's lock sees to that by itself.
        connection.execute(text(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE"))
    stored = connection.scalar(select(func.count()).select_from(table)) or 0
    if stored == 0:
        connection.execute(insert(table), [_columns(Checkpoint(partition)) for partition in range(partitions)])
    else:
        _check(stored, partitions)


def read_all(connection: Connection, partitions: int) -> list[Checkpoint]:
    """Return every checkpoint by partition; raises PartitionsMismatchError if the deployment has other ones."""
    rows = connection.execute(select(table).order_by(table.c.partition)).all()
    _check(len(rows), partitions)
    return [_checkpoint(row) for row in rows]


def read(connection: Connection, partition: int) -> Checkpoint:
    """Return one checkpoint without locking it."""
    ((row,),) = fetch(connection, Query(_READ, {"of": partition}))
    return _checkpoint(row)


def claim(
    connection: Connection, expected: Checkpoint, homes: Collection[int] = (), questions: Sequence[Query | None] = ()
) -> list[Sequence[Row]]:
    """Lock the checkpoint's row, and those of `homes`, until the transaction ends; the first statement of every change.

    Returns what answers `questions`, which are asked under the claim; in `together`, without waiting for it.
    Raises StaleClaimError unless the row still is `expected`, its counters too: another drain may have settled them.
    """
    claiming = Query(_claiming(connection.dialect.name), {"partitions": sorted({expected.partition, *homes})})
    answers = iter_fetch(connection, claiming, *questions)
    current = next(at for at in map(_checkpoint, next(answers)) if at.partition == expected.partition)
    if current != expected:
        raise StaleClaimError(
            f"partition {expected.partition} is at {current.position} of epoch {current.epoch}, {current.read:,} read"
            f" and {current.lost:,} lost, not at {expected.position} of epoch {expected.epoch}, {expected.read:,} read"
            f" and {expected.lost:,} lost"
        )
    return list(answers)


def claim_as_it_is(connection: Connection, partition: int) -> Checkpoint:
    """Lock one checkpoint's row, wherever it is, until the transaction ends, and return it."""
    mine = table.c.partition == partition
    return _checkpoint(connection.execute(select(table).where(mine).with_for_update()).one())


def advance(connection: Connection, to: Checkpoint) -> None:
    """Store the checkpoint; the caller holds its claim."""
    columns = _columns(to)
    execute(connection, _ADVANCE, columns | {"of": columns.pop("partition")})


@cache
def _claiming(dialect_name: str) -> Select[Any]:
    if dialect_name == "postgresql":
        mine = table.c.partition == any_(bindparam("partitions", type_=ARRAY(Integer)))
    else:
        mine = table.c.partition.in_(bindparam("partitions", expanding=True))
    # In one order, so that two who claim each other's rows take turns.
    return select(table).where(mine).order_by(table.c.partition).with_for_update()


def _check(stored: int, partitions: int) -> None:
    if stored != partitions:
        raise PartitionsMismatchError(stored, partitions, "the database, table checkpoint")


def _columns(checkpoint: Checkpoint) -> dict[str, object]:
    columns: dict[str, object] = {each.name: getattr(checkpoint, each.name) for each in fields(checkpoint)}
    del columns["position"], columns["seen"]
    position, seen = checkpoint.position, checkpoint.seen
    return columns | {
        "position_ms": position.ms,
        "position_seq": position.seq,
        "stream_end_ms": seen.position.ms,
        "stream_end_seq": seen.position.seq,
        "stream_end_digest": seen.digest,
        "stream_end_added": seen.added,
    }


def _checkpoint(row: Sequence[Any]) -> Checkpoint:
    columns = dict(zip(table.columns.keys(), row, strict=True))
    position = Position(columns.pop("position_ms"), columns.pop("position_seq"))
    seen_at = Position(columns.pop("stream_end_ms"), columns.pop("stream_end_seq"))
    seen = LastSeen(seen_at, columns.pop("stream_end_digest"), columns.pop("stream_end_added"))
    return Checkpoint(position=position, seen=seen, **columns)
