"""The table `checkpoint`: one row per partition, claimed by each transaction that changes read models."""

from collections.abc import Collection, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

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

from event_stream.streams.entries import Position
from event_stream.streams.stream import PartitionsMismatchError
from projections.database.columns import Row, metadata, to_signed, to_unsigned
from projections.database.pipeline import Query, execute, fetch, iter_fetch
from projections.database.table_names import qualified
from projections.errors import ProjectionsError
from projections.transaction.checkpoint import Checkpoint, KnownEnd

table = Table(
    "checkpoint",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("position_ms", BigInteger, nullable=False),
    Column("position_seq", BigInteger, nullable=False),
    Column("position_digest", LargeBinary, nullable=False),
    Column("added_offset", BigInteger, nullable=False),
    Column("read", BigInteger, nullable=False),
    Column("applied", BigInteger, nullable=False),
    Column("duplicates", BigInteger, nullable=False),
    Column("dead_lettered", BigInteger, nullable=False),
    Column("lost", BigInteger, nullable=False),
    Column("stream_end_ms", BigInteger, nullable=False),
    Column("stream_end_seq", BigInteger, nullable=False),
    Column("stream_end_digest", LargeBinary, nullable=False),
    Column("stream_end_added", BigInteger, nullable=False),
    postgresql_with={"fillfactor": 70},
)
_OF_PARTITION = table.c.partition == bindparam("of", type_=Integer)
_READ = select(table).where(_OF_PARTITION)
_ADVANCE = (
    update(table)
    .where(_OF_PARTITION)
    .values({each.name: bindparam(each.name) for each in table.columns if not each.primary_key})
)


class StaleClaimError(ProjectionsError):
    """Another drain moved the checkpoint first. Nothing was changed; read again from the current checkpoint."""


def create_all(connection: Connection, partitions: int) -> None:
    """Create the checkpoints of a new deployment; raises PartitionsMismatchError if their number differs."""
    stored = _count(connection)
    if stored == 0 and connection.dialect.name == "postgresql":
        # The second of two concurrent migrations waits, and counts the rows of the first. SQLite locks by itself.
        connection.execute(text(f"LOCK TABLE {qualified(connection.dialect, table)} IN SHARE ROW EXCLUSIVE MODE"))
        stored = _count(connection)
    if stored == 0:
        connection.execute(insert(table), [_to_columns(Checkpoint(partition)) for partition in range(partitions)])
    else:
        _check_count(stored, partitions)


def read_all(connection: Connection, partitions: int) -> list[Checkpoint]:
    """Return the checkpoints of all partitions, in order; raises PartitionsMismatchError if their number differs."""
    rows = connection.execute(select(table).order_by(table.c.partition)).all()
    _check_count(len(rows), partitions)
    return [_from_row(row) for row in rows]


def read(connection: Connection, partition: int) -> Checkpoint:
    """Return one checkpoint without locking it."""
    ((row,),) = fetch(connection, Query(_READ, {"of": partition}))
    return _from_row(row)


def claim(
    connection: Connection,
    expected: Checkpoint,
    owner_partitions: Collection[int] = (),
    queries: Sequence[Query | None] = (),
) -> list[Sequence[Row]]:
    """Lock the rows of a checkpoint and of `owner_partitions` until the transaction ends. Returns each query's rows.

    This is the first statement of every transaction that applies a batch. In a pipeline the queries are sent with it.
    Raises StaleClaimError unless the row equals `expected`. The counters are compared too: another drain may have
    counted lost entries at the same position.
    """
    lock = Query(
        _lock_statement(connection.dialect.name), {"partitions": sorted({expected.partition, *owner_partitions})}
    )
    results = iter_fetch(connection, lock, *queries)
    current = next(each for each in map(_from_row, next(results)) if each.partition == expected.partition)
    if current != expected:
        raise StaleClaimError(
            f"partition {expected.partition} is at {current.position} of epoch {current.epoch}, {current.read:,} read"
            f" and {current.lost:,} lost, not at {expected.position} of epoch {expected.epoch}, {expected.read:,} read"
            f" and {expected.lost:,} lost"
        )
    return list(results)


def claim_current(connection: Connection, partition: int) -> Checkpoint:
    """Lock one checkpoint's row until the transaction ends, and return it. Does not compare its position."""
    of_partition = table.c.partition == partition
    return _from_row(connection.execute(select(table).where(of_partition).with_for_update()).one())


def advance(connection: Connection, to: Checkpoint) -> None:
    """Store a checkpoint; the caller holds its claim."""
    columns = _to_columns(to)
    execute(connection, _ADVANCE, columns | {"of": columns.pop("partition")})


@cache
def _lock_statement(dialect_name: str) -> Select[Any]:
    if dialect_name == "postgresql":
        chosen = table.c.partition == any_(bindparam("partitions", type_=ARRAY(Integer)))
    else:
        chosen = table.c.partition.in_(bindparam("partitions", expanding=True))
    # Ordered, so that two drains that lock the same rows do not deadlock.
    return select(table).where(chosen).order_by(table.c.partition).with_for_update()


def _count(connection: Connection) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0


def _check_count(stored: int, partitions: int) -> None:
    if stored != partitions:
        raise PartitionsMismatchError(stored, partitions, "the database, table checkpoint")


def _to_columns(checkpoint: Checkpoint) -> dict[str, object]:
    columns: dict[str, object] = {each.name: getattr(checkpoint, each.name) for each in fields(checkpoint)}
    del columns["position"], columns["known_end"]
    position, known_end = checkpoint.position, checkpoint.known_end
    return columns | {
        "position_ms": to_signed(position.ms),
        "position_seq": to_signed(position.seq),
        "stream_end_ms": to_signed(known_end.position.ms),
        "stream_end_seq": to_signed(known_end.position.seq),
        "stream_end_digest": known_end.digest,
        "stream_end_added": known_end.added,
    }


def _from_row(row: Sequence[Any]) -> Checkpoint:
    columns = dict(zip(table.columns.keys(), row, strict=True))
    position = Position(to_unsigned(columns.pop("position_ms")), to_unsigned(columns.pop("position_seq")))
    known_end_position = Position(to_unsigned(columns.pop("stream_end_ms")), to_unsigned(columns.pop("stream_end_seq")))
    known_end = KnownEnd(known_end_position, columns.pop("stream_end_digest"), columns.pop("stream_end_added"))
    return Checkpoint(position=position, known_end=known_end, **columns)
