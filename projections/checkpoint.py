"""Checkpoints: per partition the last position applied, and what became of everything read up to it."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    RowMapping,
    Table,
    func,
    insert,
    select,
    text,
    update,
)

from event_stream.stream import START, End, Entry, PartitionsMismatchError, Position
from projections.errors import ProjectionsError
from projections.store import UnsignedBigInteger, metadata

table = Table(
    "checkpoint",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("position_ms", UnsignedBigInteger, nullable=False),
    Column("position_seq", UnsignedBigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("added_before", BigInteger, nullable=False),
    Column("read", BigInteger, nullable=False),
    Column("applied", BigInteger, nullable=False),
    Column("duplicates", BigInteger, nullable=False),
    Column("parked", BigInteger, nullable=False),
    Column("lost", BigInteger, nullable=False),
    postgresql_with={"fillfactor": 70},
)


class StaleClaimError(ProjectionsError):
    """Another drain moved the checkpoint meanwhile; nothing was changed, read again from where it is now."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The last entry applied, and counters since the deployment began: read = applied + duplicates + parked.

    An epoch is one life of the stream as we know it. `added_before` plus the stream's `entries-added` is the number of
    entries ever added, so that added = read + in flight + lost across its lives (CONTRACT G1). `digest` tells the entry
    at `position` from another one that got the same id; it is empty at the start.
    """

    partition: int
    epoch: int = 0
    position: Position = START
    digest: bytes = b""
    added_before: int = 0
    read: int = 0
    applied: int = 0
    duplicates: int = 0
    parked: int = 0
    lost: int = 0

    def is_at(self, entries: list[Entry]) -> bool:
        """Whether entries read from the checkpoint on, inclusive, continue the stream that it knows."""
        if self.position == START:
            return True
        return bool(entries) and entries[0].position == self.position and entries[0].digest() == self.digest

    def entries_added(self) -> int:
        """Return the stream's own count of entries up to the checkpoint."""
        return self.read + self.lost - self.added_before

    def new_epoch(self, end: End) -> Self:
        """Return the checkpoint at the start of a stream that is not the one it knew.

        What was removed from the stream's front beyond what was read is lost; what remains is read again, which is
        harmless, since the log knows its identities.
        """
        lost = self.lost + max(0, end.added - end.length - self.entries_added())
        return replace(
            self,
            epoch=self.epoch + 1,
            position=START,
            digest=b"",
            added_before=self.read + lost + end.length - end.added,
            lost=lost,
        )

    def settled(self, end: End) -> Self:
        """Return the checkpoint after the last entry of a stream: what it added beyond what was read is lost.

        A stream that does not exist or never held an entry says nothing; where entries wait, nothing is settled yet.
        """
        if end.added == 0 or end.position not in (None, self.position):
            return self
        missing = end.added - self.entries_added()
        if missing >= 0:
            return replace(self, lost=self.lost + missing)
        return replace(self, added_before=self.added_before - missing)  # another stream, or its counter was set back


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
    rows = connection.execute(select(table).order_by(table.c.partition)).mappings().all()
    _check(len(rows), partitions)
    return [_checkpoint(row) for row in rows]


def read(connection: Connection, partition: int) -> Checkpoint:
    """Return one checkpoint without locking it."""
    return _checkpoint(connection.execute(select(table).where(table.c.partition == partition)).mappings().one())


def claim(connection: Connection, expected: Checkpoint) -> None:
    """Lock the checkpoint's row until the transaction ends; the first statement of every change.

    Raises StaleClaimError unless the row still is at `expected`'s epoch and position.
    """
    statement = select(table).where(table.c.partition == expected.partition).with_for_update()
    current = _checkpoint(connection.execute(statement).mappings().one())
    if (current.epoch, current.position) != (expected.epoch, expected.position):
        raise StaleClaimError(
            f"partition {expected.partition} is at {current.position} of epoch {current.epoch},"
            f" not at {expected.position} of epoch {expected.epoch}"
        )


def advance(connection: Connection, to: Checkpoint) -> None:
    """Store the checkpoint; the caller holds its claim."""
    connection.execute(update(table).where(table.c.partition == to.partition).values(_columns(to)))


def _check(stored: int, partitions: int) -> None:
    if stored != partitions:
        raise PartitionsMismatchError(stored, partitions, "the database, table checkpoint")


def _columns(checkpoint: Checkpoint) -> dict[str, object]:
    columns: dict[str, object] = {each.name: getattr(checkpoint, each.name) for each in fields(checkpoint)}
    del columns["position"]
    return columns | {"position_ms": checkpoint.position.ms, "position_seq": checkpoint.position.seq}


def _checkpoint(row: RowMapping) -> Checkpoint:
    columns: dict[str, Any] = {str(name): value for name, value in row.items()}
    position = Position(columns.pop("position_ms"), columns.pop("position_seq"))
    return Checkpoint(position=position, **columns)
